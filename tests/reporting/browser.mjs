// Opens a page in a headless browser without a network: node browser.mjs PAGE PICTURES. Prints what is wrong with it.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const require = createRequire(path.join(process.cwd(), "package.json"));
const chromium = (await import(require.resolve("@sparticuz/chromium"))).default;
const puppeteer = require("puppeteer-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [page, pictures] = process.argv.slice(2);
const browser = await puppeteer.launch({
  args: [...chromium.args, "--no-sandbox"],
  executablePath: await chromium.executablePath(),
  headless: "shell",
});

// Words of pictures that are cut off, too small, or on top of each other, and whether the page is wider than its window.
function faults() {
  const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
  const found = { cut: [], small: [], overlapping: [], wide: [] };
  for (const picture of document.querySelectorAll("svg")) {
    const frame = picture.getBoundingClientRect();
    const words = [...picture.querySelectorAll("text")].map((each) => [each.getBoundingClientRect(), each.textContent]);
    words.forEach(([box, said], index) => {
      if (!inside(box, frame)) found.cut.push(said);
      if (box.height < 9) found.small.push(said);
      for (const [other, also] of words.slice(index + 1)) if (meet(box, other)) found.overlapping.push(`${said} / ${also}`);
    });
  }
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) found.wide.push(`${wide} > ${innerWidth}`);
  return Object.fromEntries(Object.entries(found).map(([kind, all]) => [kind, all.slice(0, 5)]));
}

const result = {};
for (const width of [1280, 390]) {
  for (const scheme of ["light", "dark"]) {
    const tab = await browser.newPage();
    const requests = [];
    await tab.setRequestInterception(true);
    tab.on("request", (request) => {
      const own = /^(file|data):/.test(request.url());
      if (!own) requests.push(request.url());
      own ? request.continue() : request.abort();
    });
    await tab.setViewport({ width, height: 900 });
    await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await tab.goto(`file://${page}`);
    await tab.screenshot({ path: `${pictures}-${width}-${scheme}.png`, fullPage: true });
    if (width === 1280 && scheme === "light") await tab.pdf({ path: `${pictures}.pdf`, format: "A4" });
    const found = await tab.evaluate(faults);
    await tab.evaluate(axe);
    const rules = await tab.evaluate(async () => (await axe.run()).violations.map((each) => [each.impact, each.id, each.nodes[0].html]));
    result[`${width} ${scheme}`] = {
      ...Object.fromEntries(Object.entries(found).filter(([, all]) => all.length)),
      ...(requests.length ? { requests } : {}),
      ...(rules.length ? { rules } : {}),
    };
    await tab.close();
  }
}
console.log(JSON.stringify(result));
await browser.close();
