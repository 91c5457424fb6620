# Common part of the rules: each defines check, which prints one line per violation in the tree at
# the current folder, and plants violations that check must find.
set -u
export LC_ALL=C

name=$(basename "$0")
plants=$(mktemp -d) || exit 1
trap 'rm -rf "$plants"' EXIT
n_bad=0

# The files of the tree that people write: paths relative to the current folder, one a line.
all_files() {
    find . \( -path ./.git -o -path './build*' -o -path ./models -o -path ./.cache \) -prune \
        -o -type f -print | sed 's|^\./||' | sort
}

c_files() {
    all_files | grep -E '\.(c|h|cu|cuh)$'
}

# code FILE: FILE with comments and the insides of string literals taken out, line by line.
code() {
    awk -f "$rules/code.awk" "$1"
}

# plant PATH TEXT: in an otherwise empty tree, a file of this text; its violations into $found.
plant() {
    rm -rf "$plants/tree"
    mkdir -p "$plants/tree/$(dirname "$1")"
    printf '%b' "$2" >"$plants/tree/$1"
    found=$(cd "$plants/tree" && check)
}

# refused PATH TEXT / allowed PATH TEXT: what check must, and must not, object to.
refused() {
    plant "$1" "$2"
    [ -n "$found" ] && return
    printf '%s is blind: it accepted %s with: %s\n' "$name" "$1" "$2"
    n_bad=$((n_bad + 1))
}

allowed() {
    plant "$1" "$2"
    [ -z "$found" ] && return
    printf '%s is too strict: on %s with: %s it said: %s\n' "$name" "$1" "$2" "$found"
    n_bad=$((n_bad + 1))
}

# Checks the tree of this rule and ends the program.
finish() {
    found=$(cd "$rules/../.." && check)
    if [ -n "$found" ]; then
        printf '%s\n' "$found"
        n_bad=$((n_bad + $(printf '%s\n' "$found" | wc -l)))
    fi
    echo "$name: $n_bad violations"
    [ "$n_bad" -eq 0 ]
    exit
}
