/* The inner loops for one instruction set; CMake gives AQ_SIMD_LANES (a header), AQ_SIMD_TABLE and
 * AQ_SIMD_NAME. See simd.h. */
#include "kernels/simd.h"

#include AQ_SIMD_LANES

#include "kernels/loops_activate.h"
#include "kernels/loops_attn.h"
#include "kernels/loops_bytes.h"
#include "kernels/loops_codes.h"
#include "kernels/loops_dims.h"
#include "kernels/loops_scan.h"
#include "kernels/loops_select.h"
#include "kernels/loops_vector.h"
#include "kernels/loops_weight.h"

#include "kernels/loops_dot.h"

const aq_simd AQ_SIMD_TABLE = {
    .name = AQ_SIMD_NAME,
    .dequantise = dequantise,
    .columns = columns,
    .dot_rows = dot_rows,
    .code_token = code_token,
    .dot_coded = dot_coded,
    .sum = sum_all,
    .sum_squares = sum_squares,
    .scale_by = scale_by,
    .add_scaled = add_scaled,
    .rotate = rotate,
    .unpack = unpack,
    .widen = widen,
    .widen_each = widen_each,
    .dot_bytes = dot_bytes,
    .mix_bytes = mix_bytes,
    .activate = activate,
    .exp_shifted = exp_shifted,
    .panel = panel,
    .score_chosen = score_chosen,
    .soften = soften,
    .scan_codes = scan_codes,
    .soften_rows = soften_rows,
    .weigh = weigh,
    .fill_buckets = fill_buckets,
    .bits_from = bits_from,
    .choose = choose,
    .fewest = fewest,
};
