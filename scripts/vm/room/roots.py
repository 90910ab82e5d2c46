"""Unpacked packages as a root file system: compilers and emulators run in it by chroot.

Nothing is installed: no maintainer script runs, and the host's own files are seen only where a
folder is bound in. With root's rights a mount namespace is enough; without, a user namespace.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .packages import Place, cache_folder
from .trouble import Trouble, Unavailable

# Symbolic links into usr, as Debian has them since 12.
MERGED = ("bin", "sbin", "lib", "lib64")


def unpack(debs: Sequence[Path], into: Path) -> None:
    """The files of the packages below a folder, /bin and /lib merged into /usr.

    Raises:
        Trouble: a package that does not unpack, with what dpkg-deb or tar said.
    """
    into.mkdir(parents=True, exist_ok=True)
    for name in MERGED:
        (into / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (into / name).exists():
            (into / name).symlink_to(f"usr/{name}")

    def one(deb: Path) -> tuple[Path, str]:
        line = (f"dpkg-deb --fsys-tarfile {shlex.quote(str(deb))} | "
                f"tar -x --keep-directory-symlink --no-same-owner -C {shlex.quote(str(into))}")
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True,
                              text=True, check=False)
        return deb, done.stderr.strip() if done.returncode else ""

    # Two at a time: unpacking waits for xz, and xz for one core.
    with ThreadPoolExecutor(2) as pool:
        for deb, said in pool.map(one, debs):
            if said:
                raise Trouble(f"{deb.name} does not unpack: {said[-300:]}")


@dataclass(frozen=True)
class Root:
    """One unpacked root file system."""

    folder: Path

    def run(
        self,
        words: Sequence[str],
        *,
        bind: Mapping[Path, str] | None = None,
        cwd: str = "/",
        nice: int = 0,
        log: Path | None = None,
        timeout_s: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in it; bind maps host folders to places inside.

        Returns the finished process, whose output is in `log` where that is given.

        Raises:
            Unavailable: no unshare(1) or setpriv(1) here.
            subprocess.TimeoutExpired: after timeout_s; the command has been ended.
        """
        for tool in ("unshare", "setpriv"):
            if not shutil.which(tool):
                raise Unavailable(f"{tool}(1) is missing: apt-get install util-linux.")
        lines = ["set -e"]
        for source, place in {Path("/dev"): "/dev", Path("/proc"): "/proc", **(bind or {})}.items():
            inside = self.folder / place.lstrip("/")
            inside.mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --rbind {shlex.quote(str(source))} {shlex.quote(str(inside))}")
        inner = f"cd {shlex.quote(cwd)}; exec nice -n {nice} {shlex.join(words)}"
        lines.append(f"exec chroot {shlex.quote(str(self.folder))} /usr/bin/env -i "
                     f"PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/tmp "
                     + " ".join(f"{key}={shlex.quote(value)}" for key, value in (env or {}).items())
                     + f" /bin/sh -c {shlex.quote(inner)}")
        (self.folder / "tmp").mkdir(exist_ok=True)
        # The emulator does not outlive a room that was ended, however that was done.
        namespace = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork",
                     "--kill-child", "--net"]
        if os.geteuid():
            namespace.append("--map-root-user")
        words = [*namespace, "bash", "-c", "\n".join(lines)]
        if log is None:
            return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True,
                                  timeout=timeout_s, check=False)
        with log.open("wb") as out:
            return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=subprocess.STDOUT, timeout=timeout_s, check=False)

    def check(self, words: Sequence[str], what: str, **options: object) -> None:
        """run(), and Trouble with the end of the output where the command failed."""
        done = self.run(words, **options)   # type: ignore[arg-type]
        if done.returncode:
            log = options.get("log")
            said = log.read_bytes() if isinstance(log, Path) else done.stdout + done.stderr
            raise Trouble(f"{what} failed ({done.returncode}):\n"
                          + said.decode("utf-8", "replace")[-3000:])


def make_root(name: str, place: Place, closure: Sequence[str],
              alone: Sequence[tuple[str, str]] = (), refresh: bool = False) -> Root:
    """A root of `closure` (with dependencies) and of `alone` (package, prefix: the package and only
    those dependencies that begin with the prefix).

    Unpacked once; a root that is there is used as it is, without a look at the network, unless
    refresh is set.
    """
    folder = cache_folder() / "roots" / name
    recipe = hashlib.sha256(repr((place, tuple(closure), tuple(alone))).encode()).hexdigest()
    done = folder / ".complete"
    if done.exists() and done.read_text() == recipe and not refresh:
        return Root(folder)
    place.update(0 if refresh else 86_400)
    debs = place.closure(closure) if closure else []
    for package, prefix in alone:
        debs += place.download(place.follow(package, prefix))
    building = folder.with_name(folder.name + ".new")
    shutil.rmtree(building, ignore_errors=True)
    unpack(list(dict.fromkeys(debs)), building)
    # Links that maintainer scripts would make.
    for link, target in (("sh", "dash"), ("awk", "gawk")):
        if not (building / "usr/bin" / link).exists() and (building / "usr/bin" / target).exists():
            (building / "usr/bin" / link).symlink_to(target)
    (building / ".complete").write_text(recipe)
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return Root(folder)
