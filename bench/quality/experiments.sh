# The experiments of bench/quality/run, which reads this file: for each name in all_experiments a
# function experiment_NAME that names its rows. @NAME is a projection (see `projection` there).
# Texts are WikiText-2 unless said; the approximation holds for every scored query.

all_experiments='projections break_even rules h2o cache select selectors ranks frontier needle
    calibration transfer auto adaptive compact recall tasks ablate gemma_rules gemma_select
    gemma_transfer gemma_needle'

projection_names='prose-65536 code-65536 technical-65536 hindi-65536
    prose-16384-s12 prose-16384-s18 prose-16384-s24'

on_ranks() { # N FUNCTION...
    local ranks=$1
    "${@:2}"
}

# Everything that is calibrated more than once, first, so that no row waits for it.
experiment_projections() {
    local name
    for name in $projection_names; do
        need "$(text "${name%%-*}-calibration")" && row "$name" calibrated "$name"
    done
}

# The paper's first: the length from which on decode is faster at k 0.75. Timings.
experiment_break_even() {
    need "$bench" "$(text book)" || return
    row_alone lengths lines_of -- "$bench" breakeven -m "$current" --projection @prose-65536 \
        -f "$(text book)" --lengths 64,128,256,512,1024,2048,4096,8000 --k-ratio 0.75 -r 5
}

# The paper's second: what decides, chosen for each query or once for all.
experiment_rules() {
    local rule ratio
    need "$(text wikitext)" || return
    for rule in magnitude energy static; do
        for ratio in 0.75 0.5 0.25; do
            row $rule-$ratio ppl wikitext 2048 8 --attn aqua --rank-by $rule --k-ratio $ratio \
                --projection @prose-65536
        done
    done
}

# The paper's third: half of the tokens evicted.
experiment_h2o() {
    local way
    need_option eval ppl --h2o && need "$(text wikitext)" "$(text book)" || return
    for way in dense aqua; do
        local how=(--attn $way -ctk bf16 -ctv bf16)
        [ $way = dense ] || how+=(--projection @prose-65536 --k-ratio 0.75)
        row $way-all ppl wikitext 2048 4 "${how[@]}"
        row $way-half ppl wikitext 2048 4 "${how[@]}" --h2o 1024
        row $way-needle-all-2048 needle 2048 2 "${how[@]}"
        row $way-needle-half-2048 needle 2048 2 "${how[@]}" --h2o 1024
    done
}

# What codes cost by themselves: all dimensions of projected keys, against an f32 cache.
experiment_cache() {
    local keys values
    need "$(text wikitext)" || return
    while read -r keys values; do
        row $keys-$values ppl wikitext 8192 2 --attn aqua --k-ratio 1 -ctk $keys -ctv $values \
            --projection @prose-65536
    done <<<'q8 q8
q6 q6
q5m q5
q8 q4'
}

# Mass and selector, cache in q8.
experiment_select() {
    local mass
    need "$(text wikitext)" || return
    for mass in 0.9 0.95 0.98 0.99; do
        row max-$mass selecting $mass --projection @prose-65536
    done
    row mean-0.95 selecting 0.95 --projection @prose-65536 --group-by mean
}

selecting() { # MASS OPTIONS...
    ppl wikitext 8192 2 --attn select -ctk q8 -ctv q8 --mass "$@"
}

selecting_short() { # MASS OPTIONS...
    ppl wikitext 4096 2 --attn select -ctk q8 -ctv q8 --mass "$@"
}

experiment_selectors() {
    local layout bytes
    need "$(text wikitext)" || return
    for layout in 64x1 16x4,16x2 64x2 16x4,32x2,16x1 32x4,32x2 64x4; do
        row fixed-$layout selecting_short 0.95 --projection @prose-65536 --selector $layout
    done
    for bytes in 12 18 24; do
        row searched-$bytes selecting_short 0.95 --projection @prose-16384-s$bytes
    done
}

# Every rank chooses from its own tokens.
experiment_ranks() {
    local n
    need "$(text wikitext)" || return
    for n in 1 2 3 4; do
        row 0.95-ranks-$n on_ranks $n ppl wikitext 8192 1 --attn select -ctk q8 -ctv q8 \
            --mass 0.95 --projection @prose-65536
    done
}

# Loss against bytes: what select and cache leave out. Select's bytes follow from mass and layout;
# pages attend to so many that they move as much as select with mass 0.95 and 0.98 does.
experiment_frontier() {
    local layout type share
    need "$(text wikitext)" || return
    for layout in 16x4,16x2 64x4; do
        row select-$layout-0.95 selecting 0.95 --projection @prose-65536 --selector $layout
    done
    if need_option eval ppl --attended; then
        for share in 0.173 0.242; do
            row pages-16-$share pages 16 $share
        done
        row pages-8-0.181 pages 8 0.181
    fi
    for type in bf16 q8; do
        row aqua-$type-0.75 ppl wikitext 8192 2 --attn aqua --k-ratio 0.75 \
            -ctk $type -ctv $type --projection @prose-65536
    done
}

pages() { # TOKENS SHARE
    ppl wikitext 8192 2 --attn pages -ctk q8 -ctv q8 --page "$1" --attended "$2"
}

# 20 texts a length: 5 depths of 4.
experiment_needle() {
    local length
    need_option eval needle --lengths && need "$(text book)" || return
    for length in 8000 4096 2048 1024; do
        row dense-$length needle $length 4 --attn dense
        row aqua-0.75-$length needle $length 4 --attn aqua --k-ratio 0.75 \
            --projection @prose-65536
        row select-0.98-$length needle $length 4 --attn select --mass 0.98 \
            --projection @prose-65536 --prefill same
    done
}

# both ID-PREFIX TEXT CTX CHUNKS PROJECTION: the ways that calibration is judged by
both() {
    local how=(--projection "$5")
    row "$1-aqua-0.75" ppl "$2" "$3" "$4" --attn aqua --k-ratio 0.75 "${how[@]}"
    row "$1-select-0.95" ppl "$2" "$3" "$4" --attn select --mass 0.95 "${how[@]}"
}

# How much text, of which kind, for a reader of WikiText-2.
experiment_calibration() {
    local domain tokens
    need "$(text wikitext)" || return
    for domain in prose code technical hindi; do
        need "$(text $domain-calibration)" || continue
        for tokens in 1024 4096 16384 65536; do
            both $domain-$tokens wikitext 2048 4 @$domain-$tokens
        done
    done
}

# Every kind read with the projection of every other; WikiText-2: in `calibration`.
experiment_transfer() {
    local domain test
    for test in code-test technical-test hindi-test; do
        need "$(text $test)" || continue
        for domain in prose code technical hindi; do
            need "$(text $domain-calibration)" &&
                both $domain-on-$test $test 2048 4 @$domain-65536
        done
    done
}

# A projection from the context's own beginning, against one from 64K tokens of prose.
experiment_auto() {
    need_option eval ppl --projection && need "$(text wikitext)" || return
    both auto-wikitext wikitext 8192 2 auto
    both prose-wikitext wikitext 8192 2 @prose-65536
    row auto-wikitext-aqua-0.5 ppl wikitext 8192 2 --attn aqua --k-ratio 0.5 --projection auto
    row prose-wikitext-aqua-0.5 ppl wikitext 8192 2 --attn aqua --k-ratio 0.5 \
        --projection @prose-65536
}

# A number of dimensions for each query, or for each head, against one for all: the same on average,
# rounded up for the latter.
experiment_adaptive() {
    local value
    need "$(text wikitext)" || return
    for value in 0.9 0.95 0.98 0.99; do
        row tau-$value tau_and_fixed $value
    done
    for value in 0.5 0.75 0.25; do
        row budget-$value budget_and_fixed $value
    done
}

aqua_on_wikitext() { ppl wikitext 2048 ${n_chunk:-8} --attn aqua "$@"; }

tau_and_fixed() { # TAU
    local extra="pair=tau-$1"
    beside_fixed prose-65536 --k-tau "$1"
}

budget_and_fixed() { # RATIO
    local extra="pair=budget-$1" n_chunk=4
    beside_fixed "prose-16384-k$1" --k-budget
}

# beside_fixed PROJECTION OPTIONS...: the way of the options, then as many dimensions for all
beside_fixed() {
    local line dims d_head ratio
    line=$(aqua_on_wikitext --projection "@$1" "${@:2}") || return
    dims=$(sed -n 's/.*"dims": \([0-9.]*\).*/\1/p' <<<"$line")
    d_head=$("$aqua" info -m "$current" | sed -n 's/^  head size *//p')
    ratio=$(awk -v n="$dims" -v d="$d_head" \
        'BEGIN { k = int(n); k += k < n; printf "%.8f", k / d }')
    echo "$line"
    aqua_on_wikitext --projection "@$1" --k-ratio "$ratio"
}

# The smallest setting of cache and selector together.
experiment_compact() {
    need "$(text wikitext)" || return
    row dense-bf16 ppl wikitext 8192 2 -ctk bf16 -ctv bf16
    row select-q5m-q5-0.95 ppl wikitext 8192 2 --attn select --mass 0.95 \
        -ctk q5m -ctv q5 --projection @prose-65536
}

experiment_recall() {
    local mass
    need_option eval recall --mass && need "$(text wikitext)" || return
    for mass in 0.95 0.98; do
        row $mass lines_of text=wikitext -- "$aqua" eval recall -m "$current" \
            -f "$(text wikitext)" --chunks 2 --mass $mass --projection @prose-65536
    done
}

experiment_tasks() {
    local kind
    need_option eval tasks --output && need "$(text book)" || return
    for kind in cloze long; do
        row $kind-dense tasks $kind --attn dense
        row $kind-aqua-0.75 tasks $kind --attn aqua --k-ratio 0.75 --projection @prose-65536
        row $kind-select-0.98 tasks $kind --attn select --mass 0.98 --projection @prose-65536 \
            --prefill same
    done
    row cloze-select-0.95 tasks cloze --attn select --mass 0.95 --projection @prose-65536 \
        --prefill same
}

# All bases in one go, each solved in the run from the same text.
experiment_ablate() {
    need_option eval ablate --bases && need "$(text wikitext)" || return
    row bases lines_of -- "$aqua" eval ablate -m "$current" -f "$(text wikitext)" -c 2048 \
        --chunks 2 --bases joint,kq,kpca,identity --calibration "$(text prose-calibration)" \
        --tokens 16384 \
        --rules magnitude,energy --ratios 0.75,0.5 --masses 0.95 --selectors 16x4,32x2,16x1
    row key-types lines_of -- "$aqua" eval ablate -m "$current" -f "$(text wikitext)" -c 2048 \
        --chunks 2 --bases joint --calibration "$(text prose-calibration)" --tokens 16384 \
        --rules energy --ratios 0.9,0.75,0.5 --key-types bf16,q8,q6,q4
}

experiment_gemma_rules() {
    local rule ratio
    need "$(text wikitext)" || return
    for ratio in 0.75 0.5; do
        for rule in magnitude energy static; do
            row $rule-$ratio ppl wikitext 2048 2 --attn aqua --rank-by $rule --k-ratio $ratio \
                --projection @prose-65536
        done
    done
}

# Three of its layers see 32768 tokens; the others have windows and stay dense.
experiment_gemma_select() {
    need "$(text wikitext)" || return
    row 64x4-0.95 gemma_selecting 0.95 --projection @prose-65536 --selector 64x4
    row searched-32-0.95 gemma_selecting 0.95 --projection @prose-16384-s32
}

gemma_selecting() { # MASS OPTIONS...
    ppl wikitext 32768 1 --attn select --mass "$@"
}

# English and Hindi, each read with the projection of each.
experiment_gemma_transfer() {
    local domain test rule
    for test in wikitext hindi-test; do
        for domain in prose hindi; do
            need "$(text $test)" "$(text $domain-calibration)" || continue
            local how=(--projection @$domain-32768)
            for rule in magnitude energy; do
                row $domain-on-$test-$rule ppl $test 2048 2 --attn aqua --k-ratio 0.75 \
                    --rank-by $rule "${how[@]}"
            done
            row $domain-on-$test-select-0.95 ppl $test 2048 2 --attn select --mass 0.95 \
                --selector 64x4 "${how[@]}"
        done
    done
}

experiment_gemma_needle() {
    local length
    need_option eval needle --lengths && need "$(text book)" || return
    for length in 4096 8192; do
        row dense-$length needle $length 1 --attn dense
        row select-0.98-$length needle $length 1 --attn select --mass 0.98 --selector 64x4 \
            --projection @prose-65536 --prefill same
        row aqua-0.75-$length needle $length 1 --attn aqua --k-ratio 0.75 \
            --projection @prose-65536
    done
}
