# Prints C source without its comments and without the insides of its string literals, keeping
# lines, so that a search finds code only. Include lines keep their names.
BEGIN { in_comment = 0 }

/^[ \t]*#[ \t]*include/ && !in_comment { print; next }

{
    line = $0
    out = ""
    while (length(line) > 0) {
        if (in_comment) {
            at = index(line, "*/")
            if (at == 0) break
            line = substr(line, at + 2)
            in_comment = 0
        } else if (match(line, /^\/\*/)) {
            line = substr(line, 3)
            in_comment = 1
        } else if (match(line, /^\/\//)) {
            break
        } else if (match(line, /^"([^"\\]|\\.)*"/)) {
            out = out "\"\""
            line = substr(line, RLENGTH + 1)
        } else if (match(line, /^'([^'\\]|\\.)*'/)) {
            out = out "''"
            line = substr(line, RLENGTH + 1)
        } else {
            out = out substr(line, 1, 1)
            line = substr(line, 2)
        }
    }
    print out
}
