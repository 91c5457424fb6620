/* Files: what is written comes back, and a failed write leaves the old file alone. */
#define _GNU_SOURCE
#include "src/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/suite.h"

typedef aq_status (*write_fn)(const char *path, const void *data, size_t bytes);

static const char *in_temp(char path[512], const char *name) {
    snprintf(path, 512, "%s/%s", aq_test_temp_dir(), name);
    return path;
}

/* Entries of the temporary folder, to see that nothing is left behind. */
static int count_entries(void) {
    int n = 0;
    DIR *dir = opendir(aq_test_temp_dir());
    while (dir && readdir(dir))
        n++;
    if (dir) closedir(dir);
    return n - 2; /* . and .. */
}

static bool holds(const char *path, const void *data, size_t bytes) {
    char *got = NULL;
    size_t n_got = 0;
    if (aq_file_read(path, &got, &n_got) != AQ_OK) return false;
    const bool same = n_got == bytes && memcmp(got, data, bytes) == 0 && got[n_got] == '\0';
    free(got);
    return same;
}

static void written_bytes_come_back(void) {
    static const size_t sizes[] = {0, 1, 65534, 65535, 65536, 200000};
    char path[512], *data = malloc(200000);
    in_temp(path, "bytes");
    for (int i = 0; i < 200000; i++)
        data[i] = (char)(i * 31 >> 3);
    for (int i = 0; i < 6; i++) {
        aq_test_ok(aq_file_write(path, data, sizes[i]));
        CU_ASSERT_TRUE(holds(path, data, sizes[i]));
    }
    CU_ASSERT_EQUAL(count_entries(), 1);
    unlink(path);
    free(data);
}

static void pieces_go_where_they_belong(void) {
    char path[512];
    aq_file_out out;
    if (!aq_test_ok(aq_file_out_open(in_temp(path, "pieces"), &out))) return;
    aq_test_ok(aq_file_out_put(&out, 6, "world", 5));
    aq_test_ok(aq_file_out_put(&out, 0, "hello ", 6));
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0); /* not there before it is complete */
    aq_test_ok(aq_file_out_commit(&out));
    CU_ASSERT_TRUE(holds(path, "hello world", 11));
    aq_file_out_discard(&out);
    CU_ASSERT_TRUE(holds(path, "hello world", 11));
    unlink(path);
}

/* Whether the old file survives a write that the system cuts off at 4096 bytes. */
static bool old_file_survives(write_fn write_file, aq_status *status) {
    char path[512], data[10000];
    struct rlimit before, tight;
    memset(data, 'n', sizeof data);
    if (aq_file_write(in_temp(path, "kept"), "old", 3) != AQ_OK) return false;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    tight = before;
    tight.rlim_cur = 4096;
    setrlimit(RLIMIT_FSIZE, &tight);
    *status = write_file(path, data, sizeof data);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    const bool kept = holds(path, "old", 3) && count_entries() == 1;
    unlink(path);
    return kept;
}

/* The plant: a writer that empties the old file first. */
static aq_status write_in_place(const char *path, const void *data, size_t bytes) {
    const int fd = open(path, O_WRONLY | O_TRUNC);
    const ssize_t put = write(fd, data, bytes);
    close(fd);
    return put == (ssize_t)bytes ? AQ_OK : AQ_ERR_IO;
}

static void a_failed_write_keeps_the_old_file(void) {
    aq_status status = AQ_OK;
    CU_ASSERT_TRUE(old_file_survives(aq_file_write, &status));
    aq_test_fails(status, AQ_ERR_IO, "nothing was changed");
    CU_ASSERT_FALSE(old_file_survives(write_in_place, &status));
    CU_ASSERT_EQUAL(status, AQ_ERR_IO);
}

static void a_failed_commit_leaves_nothing_behind(void) {
    char path[512];
    aq_file_out out;
    if (!aq_test_ok(aq_file_out_open(in_temp(path, "becomes-a-folder"), &out))) return;
    aq_test_ok(aq_file_out_put(&out, 0, "new", 3));
    CU_ASSERT_EQUAL(mkdir(path, 0700), 0);
    aq_test_fails(aq_file_out_commit(&out), AQ_ERR_IO, "cannot write");
    CU_ASSERT_EQUAL(count_entries(), 1);
    rmdir(path);
}

static void discarding_keeps_the_old_file(void) {
    char path[512];
    aq_file_out out;
    aq_test_ok(aq_file_write(in_temp(path, "discarded"), "old", 3));
    if (!aq_test_ok(aq_file_out_open(path, &out))) return;
    aq_test_ok(aq_file_out_put(&out, 0, "new", 3));
    aq_file_out_discard(&out);
    CU_ASSERT_TRUE(holds(path, "old", 3));
    CU_ASSERT_EQUAL(count_entries(), 1);
    aq_file_out_discard(&out);
    aq_file_out_discard(&(aq_file_out){0});
    unlink(path);
}

static void writing_says_what_is_wrong(void) {
    char path[512];
    aq_test_fails(aq_file_write(in_temp(path, "no/such/folder"), "x", 1), AQ_ERR_IO,
                  "No such file");
    aq_test_fails(aq_file_write(aq_test_temp_dir(), "x", 1), AQ_ERR_IO, "directory");
    aq_test_fails(aq_file_write("/dev/full", "x", 1), AQ_ERR_IO, "No space");
    CU_ASSERT_PTR_NULL(strstr(aq_error_text(), "nothing was changed"));
    aq_test_ok(aq_file_write("/dev/null", "x", 1));
}

typedef struct {
    const char *path, *data;
    size_t bytes;
    aq_status status;
} pipe_writer;

static void *write_pipe(void *arg) {
    pipe_writer *writer = arg;
    writer->status = aq_file_write(writer->path, writer->data, writer->bytes);
    return NULL;
}

/* A named pipe, more bytes than it holds at once: written in place, read until its end. */
static void pipes_are_written_and_read(void) {
    char path[512];
    const size_t bytes = 300000;
    char *data = malloc(bytes);
    pthread_t thread;
    for (size_t i = 0; i < bytes; i++)
        data[i] = (char)(i % 251);
    CU_ASSERT_EQUAL_FATAL(mkfifo(in_temp(path, "pipe"), 0600), 0);
    pipe_writer writer = {path, data, bytes, AQ_ERR_IO};
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, write_pipe, &writer), 0);
    CU_ASSERT_TRUE(holds(path, data, bytes));
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(writer.status, AQ_OK);
    CU_ASSERT_EQUAL(count_entries(), 1);
    unlink(path);
    free(data);
}

static void reading_says_what_is_wrong(void) {
    char path[512], *data = (char *)path;
    size_t bytes = 1;
    aq_test_fails(aq_file_read(in_temp(path, "missing"), &data, &bytes), AQ_ERR_IO, "missing: No");
    CU_ASSERT_PTR_NULL(data);
    CU_ASSERT_EQUAL(bytes, 0);
    aq_test_fails(aq_file_read(aq_test_temp_dir(), &data, &bytes), AQ_ERR_IO, "directory");
}

static void maps_show_the_file(void) {
    char path[512];
    aq_file_map map;
    aq_test_ok(aq_file_write(in_temp(path, "mapped"), "0123456789", 10));
    if (aq_test_ok(aq_file_map_open(path, &map))) {
        CU_ASSERT_EQUAL(map.bytes, 10);
        CU_ASSERT_EQUAL(memcmp(map.data, "0123456789", 10), 0);
        aq_file_map_close(&map);
    }
    CU_ASSERT_PTR_NULL(map.data);
    aq_file_map_close(&map);
    aq_test_ok(aq_file_write(path, "", 0));
    aq_test_ok(aq_file_map_open(path, &map));
    CU_ASSERT_PTR_NULL(map.data);
    CU_ASSERT_EQUAL(map.bytes, 0);
    aq_file_map_close(&map);
    unlink(path);
}

static void mapping_says_what_is_wrong(void) {
    char path[512];
    aq_file_map map;
    aq_test_fails(aq_file_map_open(in_temp(path, "missing"), &map), AQ_ERR_IO, "cannot open");
    CU_ASSERT_PTR_NULL(map.data);
    aq_test_fails(aq_file_map_open(aq_test_temp_dir(), &map), AQ_ERR_IO, "not a regular file");
    CU_ASSERT_EQUAL_FATAL(mkfifo(in_temp(path, "pipe"), 0600), 0);
    aq_test_fails(aq_file_map_open(path, &map), AQ_ERR_IO, "not a regular file");
    unlink(path);
}

void aq_test_register(CU_pSuite suite) {
    CU_add_test(suite, "written bytes come back", written_bytes_come_back);
    CU_add_test(suite, "pieces go where they belong", pieces_go_where_they_belong);
    CU_add_test(suite, "a failed write keeps the old file", a_failed_write_keeps_the_old_file);
    CU_add_test(suite, "a failed commit leaves nothing behind",
                a_failed_commit_leaves_nothing_behind);
    CU_add_test(suite, "discarding keeps the old file", discarding_keeps_the_old_file);
    CU_add_test(suite, "writing says what is wrong", writing_says_what_is_wrong);
    CU_add_test(suite, "pipes are written and read", pipes_are_written_and_read);
    CU_add_test(suite, "reading says what is wrong", reading_says_what_is_wrong);
    CU_add_test(suite, "maps show the file", maps_show_the_file);
    CU_add_test(suite, "mapping says what is wrong", mapping_says_what_is_wrong);
}
