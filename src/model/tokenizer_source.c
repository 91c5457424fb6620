#include "src/model/tokenizer_source.h"

#include <stdlib.h>

aq_status aq_tokenizer_source_tokens(aq_tokenizer_source *source, int32_t n) {
    source->tokens = calloc((size_t)n + 1, sizeof *source->tokens);
    if (!source->tokens)
        return aq_fail(AQ_ERR_MEMORY, "no memory for a vocabulary of %d tokens", (int)n);
    source->n = n;
    for (int32_t id = 0; id < n; id++) {
        source->tokens[id].text.data = "";
        source->tokens[id].kind = AQ_TOKEN_NORMAL;
    }
    return AQ_OK;
}

aq_status aq_tokenizer_source_merges(aq_tokenizer_source *source, int64_t n) {
    source->merges = calloc((size_t)n + 1, sizeof *source->merges);
    if (!source->merges)
        return aq_fail(AQ_ERR_MEMORY, "no memory for %lld merge rules", (long long)n);
    source->n_merge = n;
    return AQ_OK;
}

aq_status aq_tokenizer_source_end(aq_tokenizer_source *source, int64_t id) {
    if (id < 0 || id >= source->n) return AQ_OK;
    for (int i = 0; i < source->n_end; i++)
        if (source->ends[i] == id) return AQ_OK;
    if (source->n_end == AQ_MAX_END)
        return aq_fail(AQ_ERR_LIMIT, "%s: more than %d ids that end generation", source->path,
                       AQ_MAX_END);
    source->ends[source->n_end++] = (int32_t)id;
    return AQ_OK;
}

void aq_tokenizer_source_close(aq_tokenizer_source *source) {
    free(source->tokens);
    free(source->merges);
    *source = (aq_tokenizer_source){0};
}
