# shellcheck shell=sh
# What setup and install-host share: the checks made before anything is touched, packages, and Python.
# Sourced, never run. Every refusal is one sentence that ends with its remedy.

say() {
    printf 'bascule: %s\n' "$*" >&2
}

refuse() {
    say "$*"
    exit 1
}

# Refuse a machine on which the set-up cannot succeed; set python_packages for the packages that Python needs.
check_machine() {
    [ "$(uname -s)" = Linux ] ||
        refuse "this is $(uname -s), and Bascule moves VMs between Linux hosts: run it on Debian 12 or newer or on Ubuntu"
    [ "$(uname -m)" = x86_64 ] ||
        refuse "this machine's architecture is $(uname -m), and Bascule runs x86-64 guests only: use an x86-64 machine"
    { command -v apt-get && command -v dpkg-query; } >/dev/null ||
        refuse "there is no apt here, which the set-up installs QEMU with: run it on Debian 12 or newer or on Ubuntu"
    [ "$(id -u)" = 0 ] ||
        refuse "this needs root, for packages, taps and network namespaces: run it again with sudo $0"
    tun_opens || { modprobe tun && tun_opens; } 2>/dev/null ||
        refuse "/dev/net/tun cannot be opened, so VMs would have no network: run 'modprobe tun' on the machine itself," \
            "or give this container the device (docker run --privileged)"
    # shellcheck disable=SC2034 # used by the scripts that source this file
    python_packages=$(wanted_python_packages) ||
        refuse "there is no Python 3.11 or newer here, and apt has none on this release:" \
            "use Debian 12, Ubuntu 22.04 or newer, or install Python 3.11 with its venv module first"
}

check_namespaces() {
    unshare --net true 2>/dev/null ||
        refuse "this root may not make network namespaces, which the lab's hosts live in:" \
            "run it on the machine itself or in a container that may (docker run --privileged)"
}

tun_opens() {
    # Opening for reading and writing would make a file where there is no device.
    [ -c /dev/net/tun ] && (: <>/dev/net/tun) 2>/dev/null
}

# Print the first Python that is new enough.
find_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if path=$(command -v "$candidate") && "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            printf '%s\n' "$path"
            return
        fi
    done
    return 1
}

# Print the packages that would give us a Python with venv; fail where no package can.
wanted_python_packages() {
    if python=$(find_python); then
        "$python" -c 'import ensurepip' 2>/dev/null ||
            "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
        return
    fi
    # shellcheck source=/dev/null
    case $(. /etc/os-release && printf '%s %s' "$ID" "${VERSION_ID-99}") in
    "ubuntu 22.04" | "ubuntu 22.10") echo python3.11 python3.11-venv ;;
    "debian "[89]* | "debian "1[01]* | "ubuntu 1"* | "ubuntu 2"[01]*) return 1 ;;
    "debian "* | "ubuntu "*) echo python3 python3-venv ;;
    *) return 1 ;;
    esac
}

# install_packages PACKAGE...: install by apt what is missing; no apt and no network if nothing is.
install_packages() {
    missing=
    for package; do
        status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || status=
        [ "$status" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing by apt:$missing"
    log=$(mktemp)
    # Descriptor 9 is our lock: a service that a package starts must not inherit it. Lists that cannot be fetched
    # anew may still be good enough, so only the installation decides.
    apt-get -qq update >"$log" 2>&1 9<&- || true
    # shellcheck disable=SC2086 # a list of words
    if ! DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends -o DPkg::Lock::Timeout=600 \
        install $missing >>"$log" 2>&1 </dev/null 9<&-; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        refuse "apt could not install$missing: mend what it says above and run this again"
    fi
    rm -f "$log"
}

# make_venv FOLDER: make a Python environment there, named by its absolute path; keep one that works. One whose
# folder was moved or copied does not: its scripts name the old place.
make_venv() {
    if ! "$1/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        ! grep -qF "$1/bin/python" "$1/bin/pip" 2>/dev/null; then
        python=$(find_python) || refuse "there is still no Python 3.11 or newer here: install it with its venv module"
        "$python" -m venv --clear "$1"
    fi
}

# pip_install FOLDER ARGUMENT...: run pip there, quietly.
pip_install() {
    venv=$1
    shift
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input install "$@" ||
        refuse "pip could not install the Python packages: mend what it says above and run this again"
}
