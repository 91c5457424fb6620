#include "src/base/dtype.h"

#include <stddef.h>
#include <stdio.h>
#include <strings.h>

static const aq_dtype_info dtypes[] = {
    {AQ_F32, "F32", 1, 4},       {AQ_F16, "F16", 1, 2},       {AQ_BF16, "BF16", 1, 2},
    {AQ_Q4_0, "Q4_0", 32, 18},   {AQ_Q4_1, "Q4_1", 32, 20},   {AQ_Q5_0, "Q5_0", 32, 22},
    {AQ_Q5_1, "Q5_1", 32, 24},   {AQ_Q8_0, "Q8_0", 32, 34},   {AQ_Q4_K, "Q4_K", 256, 144},
    {AQ_Q5_K, "Q5_K", 256, 176}, {AQ_Q6_K, "Q6_K", 256, 210},
};

/* Types that model files may hold and that we name when refusing them. */
static const struct {
    uint32_t id;
    const char *name;
} refused[] = {
    {9, "Q8_1"},     {10, "Q2_K"},  {11, "Q3_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
    {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
    {24, "I8"},      {25, "I16"},   {26, "I32"},    {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},
    {34, "TQ1_0"},   {35, "TQ2_0"}, {39, "MXFP4"},  {40, "NVFP4"}, {41, "Q1_0"},    {42, "Q2_0"},
};

const aq_dtype_info *aq_dtype_find(uint32_t ggml_type) {
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if ((uint32_t)dtypes[i].dtype == ggml_type) return &dtypes[i];
    return NULL;
}

const aq_dtype_info *aq_dtype_find_name(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcasecmp(dtypes[i].name, name) == 0) return &dtypes[i];
    return NULL;
}

const char *aq_dtype_any_name(uint32_t ggml_type) {
    static _Thread_local char number[24];
    const aq_dtype_info *info = aq_dtype_find(ggml_type);
    if (info) return info->name;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i].id == ggml_type) return refused[i].name;
    snprintf(number, sizeof number, "type %u", (unsigned)ggml_type);
    return number;
}

int64_t aq_dtype_row_bytes(aq_dtype dtype, int64_t n) {
    const aq_dtype_info *info = aq_dtype_find((uint32_t)dtype);
    return n / info->block_elems * info->block_bytes;
}
