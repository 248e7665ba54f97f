# To be sourced: a folder for one target, filled whole or not at all, from this machine's own package clients.
# Nothing is installed on this machine.

set -euo pipefail

TARGETS=${ONNXPRUNE_TARGETS:-${XDG_CACHE_HOME:-$HOME/.cache}/onnxprune/targets}

refuse() {
    echo "$*" >&2
    exit 1
}

# begin NAME: work in a new folder, which takes the place of the old one when `finish` says so.
begin() {
    NAME=$1
    FOLDER=$TARGETS/$NAME
    mkdir -p "$TARGETS"
    WORK=$(mktemp -d "$TARGETS/.$NAME.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
}

# finish SETUP: the number that onnxprune/targets/environments.py expects.
finish() {
    printf '{"setup": %d}\n' "$1" >"$WORK/ready.json"
    chmod 755 "$WORK"
    rm -rf "$FOLDER"
    mv "$WORK" "$FOLDER"
    trap - EXIT
    echo "$NAME: ready in $FOLDER"
}

# debian_mirror: where this machine's own apt gets Debian from, by its lists, or by new ones where it has none.
debian_mirror() {
    local state found
    found=$(known_mirror)
    if [ -z "$found" ]; then
        state=$WORK/lists
        mkdir -p "$state/partial"
        # Sources beside Debian's may fail without harm.
        apt-get --quiet=2 -o "Dir::State::lists=$state" -o "APT::Sandbox::User=" update >&2 || true
        found=$(known_mirror -o "Dir::State::lists=$state")
        rm -rf "$state"
    fi
    echo "$found"
}

known_mirror() {
    apt-get "$@" indextargets --format '$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 == "main" && $3 !~ /-/ { print $4; exit }'
}

# debian_root FOLDER SUITE ARCHITECTURE PACKAGE[=VERSION]...: the packages and what they depend on, unpacked.
debian_root() {
    local folder=$1 suite=$2 architecture=$3 mirror keys state package
    shift 3
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || refuse "$NAME needs apt-get and dpkg-deb."
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || refuse "$NAME needs a Debian mirror in apt's sources, and there is none."
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keys" ] || refuse "$NAME needs $keys: install debian-archive-keyring."
    state=$WORK/apt
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$folder"
    : >"$state/status"
    echo "deb [signed-by=$keys] $mirror $suite main" >"$state/sources.list"
    local apt=(apt-get --quiet=2
        -o "Dir::State=$state" -o "Dir::State::lists=$state/lists" -o "Dir::State::status=$state/status"
        -o "Dir::Cache=$state" -o "Dir::Etc::sourcelist=$state/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
        -o "APT::Install-Recommends=false" -o "Acquire::Languages=none" -o "APT::Sandbox::User="
        -o "Debug::NoLocking=true")
    "${apt[@]}" update
    "${apt[@]}" --yes --download-only install "$@"
    for package in "$state"/archives/*.deb; do
        dpkg-deb --extract "$package" "$folder"
    done
    rm -rf "$state"
}
