"""The inputs of each domain: files by path or glob, or data sets of the Hugging Face hub, and of which kind each is."""

import glob
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.storage.s3 import is_address
from shear_lit.data.text.file_names import READ, kind_of_file, package_for
from shear_lit.data.text.kind import PIPELINE, Source
from shear_lit.data.text.kinds.hub import HUB, open_hub
from shear_lit.data.text.kinds.litdata_tokens import INDEX, litdata_bytes
from shear_lit.data.text.refusals import unreadable
from shear_lit.data.text.stored import stored_sources
from shear_lit.disk.names import expanded
from shear_lit.disk.records import one_line

_log = logging.getLogger(__name__)

_ARRAYS = ("uint16", "uint32")
_WORDS = {"parquet": "Parquet", "arrow": "Arrow", "hub": "a data set of the Hugging Face hub"}


def find_sources(
    domains: Mapping[str, str | Sequence[str]], *, exclude: Path | None = None, without: str = ""
) -> list[Source]:
    """The inputs of all domains, in the order in which they are read: by domain, as given, globs sorted.

    Args:
        domains: Paths, globs, ``hf://`` names, ``s3://`` addresses and ``uint16:`` or ``uint32:`` arrays of each.
        exclude: A directory whose files are left out where a glob meets them: that of the output.
        without: An address in S3, likewise.

    Raises:
        DataError: there is no such file, it is of no kind that is read, or a package for its kind is missing.
    """
    sources: list[Source] = []
    known: dict[object, str] = {}
    for domain in sorted(domains):
        patterns = domains[domain]
        finder = _Finder(domain, exclude, without)
        found = finder.sources([patterns] if isinstance(patterns, str) else patterns)
        _log_shared(domain, found, known)
        sources += found.values()
    return sources


def _log_shared(domain: str, found: Mapping[object, Source], known: dict[object, str]) -> None:
    """Log which inputs another domain has too: their documents will be duplicates."""
    for key, source in found.items():
        if (other := known.setdefault(key, domain)) != domain:
            _log.warning(
                "domains.%s: %r is also in domain %s, which keeps its documents", domain, source.name, other
            )


class _Finder:
    """Finds the inputs of one domain, each once."""

    def __init__(self, domain: str, exclude: Path | None, without: str) -> None:
        self._domain, self._key, self._without = domain, f"domains.{domain}", without
        self._excluded = [exclude.resolve(), _beside(exclude.resolve())] if exclude is not None else []

    def sources(self, patterns: Sequence[str]) -> dict[object, Source]:
        """The inputs, by what tells two of them apart."""
        found: dict[object, Source] = {}
        for pattern in patterns:
            for key, source in self._of(pattern):
                if key in found:
                    _log.info("%s: %r is %r, which counts once", self._key, source.name, found[key].name)
                found.setdefault(key, source)
        if not found:
            raise DataError(
                "[] is an empty list: each domain needs text. Name a file, or leave it out.", key=self._key
            )
        return found

    def _of(self, pattern: str) -> Iterator[tuple[object, Source]]:
        if pattern.startswith(HUB):
            yield pattern, self._hub(pattern)
            return
        if pattern == f"{PIPELINE}://":
            yield pattern, Source(domain=self._domain, name=pattern, kind=PIPELINE, bytes=0)
            return
        before, _, after = pattern.partition(":")
        kind = before if before in _ARRAYS and after else None
        if is_address(address := after if kind else pattern):
            for source in stored_sources(self._domain, address, kind, self._without):
                self._check_package(source.name, source.kind)
                yield source.name, source
            return
        for path in self._files(address):
            yield self._file(path, kind)

    def _files(self, pattern: str) -> Iterator[Path]:
        path = expanded(pattern)
        try:
            there = [path] if path.is_file() or _is_token_directory(path) else _matching(path)
            usable = [p for p in there if p.is_file() or _is_token_directory(p)]
            waiting = [p for p in there if p.exists() and not p.is_file() and not p.is_dir()]
        except (OSError, ValueError) as error:  # the second: a zero byte, or a pattern that is no expression
            raise DataError(
                f"{pattern!r} cannot be looked for ({one_line(error)}). Correct it.", key=self._key
            ) from error
        if waiting:
            raise DataError(
                f"{str(waiting[0])!r} is a pipe or a device, which may never end. "
                "Write what comes from it into a file.",
                key=self._key,
            )
        if not usable:
            raise DataError(
                f"{pattern!r}: no file matches it: a path, a glob, or {HUB}name is expected. "
                "Correct it; a directory is written as 'directory/*.jsonl'.",
                key=self._key,
            )
        yield from _without_parts(self._without_output(pattern, usable))

    def _without_output(self, pattern: str, paths: list[Path]) -> list[Path]:
        """Those that do not lie in the output, which a run would otherwise read as its own input."""
        kept = [path for path in paths if not self._excluded or not self._is_excluded(path)]
        if not kept:
            raise DataError(
                f"{pattern!r} matches nothing but files of the output directory. Correct it, or choose another output.",
                key=self._key,
            )
        if len(kept) < len(paths):
            _log.warning(
                "%s: %r also matches %d files of the output directory, which are left out",
                self._key,
                pattern,
                len(paths) - len(kept),
            )
        return kept

    def _is_excluded(self, path: Path) -> bool:
        real = path.resolve()
        return any(real.is_relative_to(directory) for directory in self._excluded)

    def _file(self, path: Path, kind: str | None) -> tuple[object, Source]:
        if path.suffix.lower() == ".idx" and (tokens := path.with_suffix(".bin")).is_file():
            path = tokens
        name = str(path)
        kind = kind or ("litdata" if path.is_dir() else kind_of_file(path))
        if kind is None:
            raise DataError(
                f"{name!r} is of no kind that is read: {READ}. Convert it, or narrow the glob.", key=self._key
            )
        self._check_package(name, kind)
        try:
            status = path.stat()
            size = litdata_bytes(name) if path.is_dir() else status.st_size
            _readable(path / INDEX if path.is_dir() else path)
        except OSError as error:
            raise DataError(
                f"{name!r} cannot be read ({error.strerror}). Correct its permissions, or the list.",
                key=self._key,
            ) from error
        except ValueError as error:
            raise unreadable(name, error) from error
        source = Source(domain=self._domain, name=name, kind=kind, bytes=size)
        return (status.st_dev, status.st_ino) if status.st_ino else name, source

    def _hub(self, name: str) -> Source:
        self._check_package(name, "hub")
        source = Source(domain=self._domain, name=name, kind="hub", bytes=0)
        return replace(source, bytes=open_hub(source).data.nbytes)

    def _check_package(self, name: str, kind: str) -> None:
        package = package_for(name, kind)
        if package and importlib.util.find_spec(package) is None:
            raise DataError(
                f"{name!r}: {_WORDS.get(kind, 'Zstandard')} is read with the package {package!r}, which is not "
                "installed. Install it with `pip install 'shear-lit[corpus]'`.",
                key=self._key,
            )


def _readable(path: Path) -> None:
    """Raise ``OSError`` where a file may not be read."""
    with path.open("rb"):
        pass


def _beside(output: Path) -> Path:
    """Where a run works before its output is whole."""
    return output.with_name(f"{output.name}.partial")


def _matching(path: Path) -> list[Path]:
    return [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (absolute patterns)


def _is_token_directory(path: Path) -> bool:
    return (path / INDEX).is_file()


def _without_parts(paths: list[Path]) -> Iterator[Path]:
    """Without the files of directories that are an input as a whole."""
    whole = {path for path in paths if path.is_dir()}
    yield from (path for path in paths if not whole.intersection(path.parents))
