/* A block of threads makes the codes of one tile and KV head, a thread those of a column. */
#include "kernels/cuda_fit_parts.h"
#include "kernels/cuda_parts.h"

static __global__ void code_tiles(const aq_code_selector_args a, const aq_cuda_cache cache) {
    extern __shared__ uint8_t codes[];
    __shared__ int source[AQ_TILE]; /* the token whose key a slot gives */
    const int64_t tile = a.tile[blockIdx.x];
    const int64_t *pos = a.slot_pos + tile * AQ_TILE;
    const int g = blockIdx.y;
    int first = 0;
    while (first < AQ_TILE && pos[first] == INT64_MAX)
        first++;
    if (first == AQ_TILE) return;
    if (threadIdx.x < AQ_TILE)
        source[threadIdx.x] = pos[threadIdx.x] == INT64_MAX ? first : (int)threadIdx.x;
    aq_cuda_code_selector(
        cache, [&](int c, int s) { return aq_cuda_key(cache, tile, g, source[s], c); }, codes,
        (uint8_t *)cache.kv.selector + (tile * cache.kv.n_kv_head + g) * cache.selector_bytes);
}

void aq_code_selector_cuda(aq_backend *be, const aq_code_selector_args *args) {
    aq_cuda *cuda = aq_cuda_of(be);
    aq_cuda_cache cache = aq_cuda_cache_of(&args->kv);
    const dim3 grid((unsigned)args->n_tile, (unsigned)args->kv.n_kv_head);
    if (args->n_tile == 0) return;
    cache.kv.open_keys = NULL; /* the open buffers are not used */
    code_tiles<<<grid, AQ_CODE_THREADS, (size_t)(cache.n_code * AQ_TILE), cuda->stream>>>(*args,
                                                                                          cache);
    aq_cuda_check(cuda, "code_selector");
}
