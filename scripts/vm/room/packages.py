"""Debian packages of any suite through a private apt: fetched and checked, never installed.

apt is given a state of its own below the cache folder, one per place (a set of suites), with an
empty list of installed packages. So it resolves whole closures, checks the archive's signature, the
index's checksum and each package's SHA-256 from the index, and the system's own apt knows nothing
of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .trouble import Unavailable

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def cache_folder() -> Path:
    """Where everything that is fetched or built is kept: $XDG_CACHE_HOME/perfxmm-vm."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "perfxmm-vm"


def mirror() -> str:
    """Address below which the archives `debian` and `debian-security` are, without a slash.

    $PERFXMM_VM_MIRROR, else the Debian mirror that this system's own apt uses.

    Raises:
        Unavailable: no apt here, or neither mirror (on Ubuntu: name one).
    """
    if not shutil.which("apt-get"):
        raise Unavailable("The machine room fetches Debian packages with apt-get, which is not "
                          "here. Run it on Debian or Ubuntu, or in a container of one.")
    if named := os.environ.get("PERFXMM_VM_MIRROR"):
        return named.rstrip("/")
    done = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"],
                          capture_output=True, text=True, check=False)
    found = mirror_among(done.stdout)
    if not found:
        raise Unavailable("This system's apt knows no Debian mirror. Set PERFXMM_VM_MIRROR to the "
                          "address of one, without its last part /debian.")
    return found


def mirror_among(repositories: str) -> str:
    """The first Debian archive of apt's repositories, one a line, without /debian; or ""."""
    for line in repositories.split():
        for archive in ("/debian", "/debian-security"):
            if line.rstrip("/").endswith(archive):
                return line.rstrip("/").removesuffix(archive)
    return ""


@dataclass(frozen=True)
class Package:
    """One stanza of a package index, as far as the room needs it."""

    name: str
    version: str
    depends: tuple[str, ...]   # first alternative of each dependency, versions left out
    sha256: str
    size_bytes: int
    filename: str              # in the archive, percent signs as they are


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a Debian control file; a continuation line keeps its line break."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line.strip()
        elif ":" in line:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    if fields:
        yield fields


def first_alternatives(depends: str) -> tuple[str, ...]:
    """The package names of a Depends field: the first of each `a | b`, without its version."""
    names = []
    for clause in depends.split(","):
        found = re.match(r"\s*([a-z0-9][a-z0-9+.-]*)", clause)
        if found:
            names.append(found[1])
    return tuple(names)


def parse_packages(text: str) -> list[Package]:
    """The packages of an index, or of what `apt-cache show` prints."""
    return [
        Package(
            name=stanza["Package"],
            version=stanza["Version"],
            depends=first_alternatives(stanza.get("Depends", "")),
            sha256=stanza.get("SHA256", ""),
            size_bytes=int(stanza.get("Size", "0")),
            filename=stanza.get("Filename", ""),
        )
        for stanza in stanzas(text)
        if "Package" in stanza and "Version" in stanza
    ]


def to_install(simulation: str) -> list[tuple[str, str]]:
    """(name, version) of each package that an `apt-get --simulate install` would install.

    --print-uris will not do: it leaves out what is in the archive folder already.
    """
    return re.findall(r"^Inst (\S+) \((\S+) ", simulation, re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """A set of suites that one apt state looks at. Suites are `bookworm` or `bookworm-security`;
    name is the folder of the state."""

    name: str
    suites: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return cache_folder() / "apt" / self.name

    def sources(self, base: str) -> str:
        """A sources.list of the suites, on the mirror base."""
        lines = []
        for suite in self.suites:
            archive = "debian-security" if suite.endswith("-security") else "debian"
            for kind in ("deb", "deb-src"):
                lines.append(f"{kind} [signed-by={KEYRING}] {base}/{archive} {suite} main\n")
        return "".join(lines)

    def update(self, max_age_s: float = 86_400) -> None:
        """Fetch the indexes, unless that was done less than max_age_s seconds ago.

        Raises:
            Unavailable: no apt here, no Debian keyring, no network.
        """
        stamp = self.folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < max_age_s:
            return
        base = mirror()
        if not KEYRING.exists():
            raise Unavailable(f"{KEYRING} is missing: apt-get install debian-archive-keyring.")
        for part in ("state/lists/partial", "archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text(self.sources(base))
        (self.folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{self.folder}/sources.list";\n'
            'Dir::Etc::sourceparts "-";\n'
            f'Dir::State "{self.folder}/state";\n'
            f'Dir::State::status "{self.folder}/status";\n'
            f'Dir::Cache "{self.folder}";\n'
            'Acquire::Languages "none";\n'
            'Acquire::Check-Valid-Until "false";\n'   # a retired suite's last index has run out
            'APT::Architecture "amd64";\n'
            'APT::Architectures { "amd64"; };\n'
            'Binary::apt::APT::Keep-Downloaded-Packages "true";\n'
            # As root apt drops to a user who cannot enter a private folder.
            f'APT::Sandbox::User "{"root" if os.geteuid() == 0 else ""}";\n'
        )
        self._apt("apt-get", "update", "-q", "--error-on=any")
        stamp.touch()

    def show(self, names: Sequence[str]) -> dict[str, Package]:
        """The candidate of each name (by pins and versions, as apt would install it)."""
        text = self._apt("apt-cache", "show", "--no-all-versions", *names)
        return {package.name: package for package in parse_packages(text)}

    def follow(self, name: str, prefix: str, without: Iterable[str] = ()) -> list[Package]:
        """name and what it depends on, as far as names begin with prefix: a kernel without the
        tools that would install it."""
        found: dict[str, Package] = {}
        wanted = [name]
        skipped = set(without)
        while wanted:
            for package in self.show(wanted).values():
                found[package.name] = package
            wanted = sorted({
                other for package in found.values() for other in package.depends
                if other.startswith(prefix) and other not in found and other not in skipped
            })
        return [found[key] for key in sorted(found)]

    def closure(self, names: Sequence[str]) -> list[Path]:
        """The packages, with all that they depend on, as files.

        Raises:
            Unavailable: apt's own words, where something is not to be had.
        """
        words = ["install", "-y", "-q", "--no-install-recommends", *names]
        wanted = to_install(self._apt("apt-get", "--simulate", *words))
        self._apt("apt-get", "--download-only", *words)
        return [self._file(name, version) for name, version in wanted]

    def download(self, packages: Iterable[Package]) -> list[Path]:
        """These packages alone, as files."""
        files = []
        for package in packages:
            if not self._kept(package.name, package.version):
                self._apt("apt-get", "download", "-q", f"{package.name}={package.version}",
                          folder=self.folder / "archives")
            files.append(self._file(package.name, package.version))
        return files

    def _kept(self, name: str, version: str) -> list[Path]:
        # As apt writes versions into the names of files: the colon of an epoch is no colon.
        pattern = f"{name}_{version.replace(':', '%3a')}_*.deb"
        return list((self.folder / "archives").glob(pattern))

    def _file(self, name: str, version: str) -> Path:
        kept = self._kept(name, version)
        if not kept:
            raise Unavailable(f"apt-get left no file of {name} {version} in {self.folder}/archives")
        return kept[0]

    def source(self, name: str, into: Path) -> Path:
        """The original source of a package as one tar file."""
        into.mkdir(parents=True, exist_ok=True)
        self._apt("apt-get", "source", "-q", "--download-only", "--tar-only", name, folder=into)
        (tar,) = into.glob("*.orig.tar.*[!c]")
        return tar

    def _apt(self, *words: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "APT_CONFIG": str(self.folder / "apt.conf"), "LC_ALL": "C",
                 "DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "Err"))]
            raise Unavailable(f"{' '.join(words[:3])} ({', '.join(self.suites)}) failed: "
                              + ("; ".join(said) or done.stderr.strip()[-400:]))
        return done.stdout
