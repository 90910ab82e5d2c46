"""How a module gets a signature that this machine accepts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perfxmm.kernel.situation import Situation
from perfxmm.sources.kmodule.place import MODULE_FILE, headers_folder

# UEFI specification 2.10, 3.3: four bytes of attributes, then the value.
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_ATTRIBUTE_BYTES = 4
_ENFORCED = "sys/module/module/parameters/sig_enforce"
# Where Debian's and Ubuntu's DKMS keep the key that they sign with, once it was made.
_KNOWN_KEYS = (
    ("var/lib/dkms/mok.key", "var/lib/dkms/mok.pub"),
    ("var/lib/shim-signed/mok/MOK.priv", "var/lib/shim-signed/mok/MOK.der"),
)


@dataclass(frozen=True, slots=True)
class Signing:
    """What this machine wants of modules. None: not known.

    key: (private key, certificate) that DKMS signs with here, None where there is none.
    sign_file: the kernel's own signing program, of the running kernel's headers.
    """

    secure_boot: bool | None
    enforced: bool | None
    lockdown: str
    key: tuple[Path, Path] | None
    sign_file: Path | None

    @property
    def needed(self) -> bool | None:
        """Must a module be signed here? None where that cannot be told."""
        if self.lockdown in ("integrity", "confidentiality") or self.enforced:
            return True
        return None if self.enforced is None and self.secure_boot else False


@dataclass(frozen=True, slots=True)
class Step:
    text: str
    command: str = ""


def read_signing(release: str, situation: Situation, root: Path = Path("/")) -> Signing:
    headers = headers_folder(release, root)
    program = headers / "scripts/sign-file" if headers else None
    key = next(
        ((root / private, root / public) for private, public in _KNOWN_KEYS
         if (root / private).is_file() and (root / public).is_file()),
        None,
    )  # fmt: skip
    return Signing(
        _secure_boot(root), _enforced(root), situation.lockdown, key,
        program if program and program.is_file() else None,
    )  # fmt: skip


def steps(signing: Signing, file: Path | None) -> list[Step]:
    """What to do, in order. file: the module, None where it is not built yet."""
    found = []
    module = str(file) if file else MODULE_FILE
    if file is None:
        found.append(Step("Build the module.", "perfxmm module build"))
    if signing.key:
        private, public = (str(path) for path in signing.key)
        found.append(Step("DKMS has a key on this machine; if it is enrolled already, the next "
                          "step can be left out.", f"mokutil --test-key {public}"))  # fmt: skip
    else:
        private, public = "MOK.priv", "MOK.der"
        found.append(
            Step(
                "Make a key. Keep the private part where only root can read it: whoever has it can "
                "put code into this kernel.",
                'openssl req -new -x509 -newkey rsa:2048 -nodes -days 3650 -outform DER '
                '-subj "/CN=xsaves_nmi modules/" -addext extendedKeyUsage=codeSigning '
                f"-keyout {private} -out {public}",
            )
        )
    found += [
        Step("Enroll its certificate: this asks for a password, and the firmware's MokManager asks "
             "for it again at the next boot (choose Enroll MOK).",
             f"mokutil --import {public} && reboot"),
        Step("Sign the module, after every build."
             if signing.sign_file else
             "Sign the module, after every build. sign-file comes with the kernel's headers; on "
             "Ubuntu kmodsign does the same.",
             f"{signing.sign_file or 'sign-file'} sha256 {private} {public} {module}"),
        Step("Load it.", "perfxmm module load"),
    ]  # fmt: skip
    return found


def _secure_boot(root: Path) -> bool | None:
    try:
        data = (root / _SECURE_BOOT).read_bytes()
    except OSError:
        # Without UEFI variables there is no Secure Boot; a kernel that hides them says nothing.
        return None if (root / "sys/firmware/efi").is_dir() else False
    return data[_ATTRIBUTE_BYTES] == 1 if len(data) > _ATTRIBUTE_BYTES else None


def _enforced(root: Path) -> bool | None:
    try:
        return (root / _ENFORCED).read_text().strip() == "Y"
    except OSError:
        return None
