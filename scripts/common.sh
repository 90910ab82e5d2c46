# What scripts/demo and scripts/test share: a Python, a virtual environment, system packages.
# Sourced by bash; needs nothing but coreutils.

say() { printf '%s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# A Python of 3.11 or later, by name from newest to oldest; $PYTHON overrides.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "perfxmm needs Python 3.11 or later; python3 here is $(python3 --version 2>&1 || echo missing)." \
        "Install python3.11 (or later) from your distribution, or set PYTHON=/path/to/python."
}

# install_packages DEBIAN_NAMES FEDORA_NAMES: by the distribution's package manager, as root.
# Returns 1, with the command to run said, where that is not possible.
install_packages() {
    local apt_names=$1 dnf_names=$2
    if command -v apt-get >/dev/null 2>&1; then
        if [ "$(id -u)" = 0 ]; then
            # shellcheck disable=SC2086
            { apt-get update -q && DEBIAN_FRONTEND=noninteractive \
                apt-get install -q -y --no-install-recommends $apt_names; } >&2 && return 0
        fi
        say "To install what is missing: sudo apt-get install $apt_names"
    elif command -v dnf >/dev/null 2>&1; then
        if [ "$(id -u)" = 0 ]; then
            # shellcheck disable=SC2086
            dnf install -y -q $dnf_names >&2 && return 0
        fi
        say "To install what is missing: sudo dnf install $dnf_names"
    else
        say "No apt-get or dnf here; install by hand: $apt_names"
    fi
    return 1
}

# make_venv DIRECTORY: a virtual environment with pip; the distribution's venv package first where
# it is split off (Debian, Ubuntu).
make_venv() {
    local venv=$1 python version
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        say "Python $version has no venv module here; bringing the distribution's package."
        install_packages "python$version-venv" "python3-libs" ||
            die "A virtual environment cannot be made without it; run the command above, then this script again."
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv" || die "Could not make a virtual environment in $venv."
}
