// A part of a page as a picture: node picture.mjs PAGE PICTURE WIDTH HEADING... keeps the first row of these sections.
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.cwd(), "package.json"));
const chromium = (await import(require.resolve("@sparticuz/chromium"))).default;
const puppeteer = require("puppeteer-core");
const [page, picture, width, ...headings] = process.argv.slice(2);
const browser = await puppeteer.launch({
  args: [...chromium.args, "--no-sandbox"],
  executablePath: await chromium.executablePath(),
  headless: "shell",
});
const tab = await browser.newPage();
await tab.setViewport({ width: Number(width), height: 600 });
await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
await tab.goto(`file://${page}`);
const kept = await tab.evaluate((wanted) => {
  for (const section of document.querySelectorAll("section")) {
    if (!wanted.includes(section.querySelector("h2").textContent)) section.remove();
    section.querySelectorAll("p, .grid ~ *").forEach((each) => each.remove());
  }
  document.querySelectorAll("details, footer").forEach((each) => each.remove());
  return document.querySelectorAll("section").length;
}, headings);
await tab.screenshot({ path: picture, fullPage: true });
await browser.close();
if (kept !== headings.length) throw new Error(`${kept} of the headings were found: ${headings.join(", ")}`);
