/* The operations that every backend has, by name, for the tables of backends that stand before
 * another one; but for matmul_each, whose arguments point to an array of the host. */
#ifndef AQ_TESTS_SUPPORT_BACKEND_OPERATIONS_H
#define AQ_TESTS_SUPPORT_BACKEND_OPERATIONS_H

#define AQ_EACH_OPERATION(X)                                                                       \
    X(embed)                                                                                       \
    X(rmsnorm)                                                                                     \
    X(layernorm)                                                                                   \
    X(matmul)                                                                                      \
    X(add_bias)                                                                                    \
    X(rope_table)                                                                                  \
    X(rope)                                                                                        \
    X(activate)                                                                                    \
    X(route)                                                                                       \
    X(gather_rows)                                                                                 \
    X(scatter_add_rows)                                                                            \
    X(pack_rows)                                                                                   \
    X(unpack_rows)                                                                                 \
    X(project)                                                                                     \
    X(topk_dims)                                                                                   \
    X(prune_dims)                                                                                  \
    X(kv_append)                                                                                   \
    X(kv_read)                                                                                     \
    X(code_selector)                                                                               \
    X(attn_partial)                                                                                \
    X(attn_select)                                                                                 \
    X(attn_mass)                                                                                   \
    X(attn_merge)

#endif
