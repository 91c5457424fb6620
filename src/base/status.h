/* Status codes and the error text that goes with them.
 *
 * Every fallible function returns aq_status; AQ_OK is 0. The text of the last failure of the
 * calling thread is one line that says what happened, where, and what to do; only the programs
 * print it. */
#ifndef AQ_BASE_STATUS_H
#define AQ_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#define AQ_STATUS_LIST(X)                                                                          \
    X(AQ_OK, "ok")                                                                                 \
    X(AQ_ERR_USAGE, "wrong use")                                                                   \
    X(AQ_ERR_IO, "input or output failed")                                                         \
    X(AQ_ERR_FORMAT, "malformed data")                                                             \
    X(AQ_ERR_UNSUPPORTED, "not supported")                                                         \
    X(AQ_ERR_MEMORY, "out of memory")                                                              \
    X(AQ_ERR_LIMIT, "limit exceeded")                                                              \
    X(AQ_ERR_MISMATCH, "things do not belong together")                                            \
    X(AQ_ERR_COMM, "communication failed")                                                         \
    X(AQ_ERR_NUMERIC, "numerical failure")

#define AQ_STATUS_ENUM(name, text) name,
typedef enum { AQ_STATUS_LIST(AQ_STATUS_ENUM) } aq_status;
#undef AQ_STATUS_ENUM

#define AQ_ERROR_TEXT_BYTES 1024

#ifdef __GNUC__
#define AQ_PRINTF(format_index, first_arg) __attribute__((format(printf, format_index, first_arg)))
#else
#define AQ_PRINTF(format_index, first_arg)
#endif

/* Records one line of text for the calling thread and returns `code`, so that a failure is written
 *     return aq_fail(AQ_ERR_IO, "cannot open %s: %s", path, strerror(errno));
 * Text longer than AQ_ERROR_TEXT_BYTES - 1 is cut; newlines become spaces. Local. */
aq_status aq_fail(aq_status code, const char *format, ...) AQ_PRINTF(2, 3);

/* The text recorded last by aq_fail in this thread; "" if none. Owned by the thread. Local. */
const char *aq_error_text(void);

/* The name of a code, e.g. "AQ_ERR_IO", and its meaning in two or three words. Static. Local. */
const char *aq_status_name(aq_status code);
const char *aq_status_meaning(aq_status code);

/* Forwards a failure to the caller. Not for functions that own something: those go to `done:`. */
#define AQ_TRY(call)                                                                               \
    do {                                                                                           \
        aq_status aq_try_status = (call);                                                          \
        if (aq_try_status != AQ_OK) return aq_try_status;                                          \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
