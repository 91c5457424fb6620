#define _POSIX_C_SOURCE 200809L
#include "launch/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char *terminal(const char *path) {
    const size_t n = strlen(path);
    if (n > 4 && strcmp(path + n - 4, ".svg") == 0) return "svg size 900,540 background 'white'";
    if (n > 4 && strcmp(path + n - 4, ".png") == 0) return "png size 900,540";
    return NULL;
}

/* Runs gnuplot over a script, which is read from its beginning. */
static aq_status run_gnuplot(FILE *script, const char *path) {
    char *const arguments[] = {"gnuplot", NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    int state = 0;
    if (fflush(script) != 0 || fseek(script, 0, SEEK_SET) != 0)
        return aq_fail(AQ_ERR_IO, "cannot write a script for gnuplot: %s", strerror(errno));
    if (posix_spawn_file_actions_init(&actions) != 0)
        return aq_fail(AQ_ERR_MEMORY, "no memory to start gnuplot");
    posix_spawn_file_actions_adddup2(&actions, fileno(script), STDIN_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    const int failure = posix_spawnp(&child, arguments[0], &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failure != 0)
        return aq_fail(AQ_ERR_UNSUPPORTED,
                       "--plot needs gnuplot, which cannot be started: %s; install it or leave "
                       "--plot out",
                       strerror(failure));
    while (waitpid(child, &state, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0) return AQ_OK;
    return aq_fail(AQ_ERR_IO, "gnuplot failed to make %s", path);
}

/* A text as gnuplot reads it between apostrophes. */
static void put_quoted(FILE *to, const char *text) {
    fputc('\'', to);
    for (; *text; text++) {
        if (*text == '\'') fputc('\'', to);
        fputc(*text, to);
    }
    fputc('\'', to);
}

static void put_labels(FILE *to, char axis, const char *label, int n, const double *places) {
    fprintf(to, "set %clabel ", axis);
    put_quoted(to, label);
    fprintf(to, "\nset %ctics (", axis);
    for (int i = 0; i < n; i++)
        fprintf(to, "%s'%.10g' %d", i > 0 ? ", " : "", places[i], i);
    fprintf(to, ")\n");
}

static void put_script(FILE *to, const char *path, const aq_plot_grid *grid) {
    fprintf(to, "set terminal %s\nset output ", terminal(path));
    put_quoted(to, path);
    fprintf(to, "\nset title ");
    put_quoted(to, grid->title);
    fprintf(to,
            " noenhanced\nset palette defined (0 '#c0392b', 0.5 '#f4d03f', 1 '#1e8449')\n"
            "set cbrange [0:1]\nset xrange [-0.5:%d.5]\nset yrange [%d.5:-0.5]\n",
            grid->n_x - 1, grid->n_y - 1);
    put_labels(to, 'x', grid->x_label, grid->n_x, grid->x);
    put_labels(to, 'y', grid->y_label, grid->n_y, grid->y);
    fprintf(to, "$shares << END\n");
    for (int y = 0; y < grid->n_y; y++)
        for (int x = 0; x < grid->n_x; x++)
            fprintf(to, "%d %d %.6g\n", x, y, grid->shares[y * grid->n_x + x]);
    fprintf(to, "END\nset style fill solid noborder\n"
                "plot $shares using 1:2:(0.5):(0.5):3 with boxxyerror fillcolor palette notitle, "
                "$shares using 1:2:(sprintf('%%.2f', $3)) with labels notitle\n");
}

static aq_status draw(const char *path, const aq_plot_grid *grid) {
    FILE *script = tmpfile();
    if (!script) return aq_fail(AQ_ERR_IO, "cannot open a temporary file: %s", strerror(errno));
    if (grid) put_script(script, path, grid);
    const aq_status status = run_gnuplot(script, path);
    fclose(script);
    return status;
}

aq_status aq_plot_check(const char *path) {
    if (!terminal(path))
        return aq_fail(AQ_ERR_USAGE, "--plot %s: the name must end in .svg or .png", path);
    return draw(path, NULL);
}

aq_status aq_plot_draw(const char *path, const aq_plot_grid *grid) {
    return terminal(path) ? draw(path, grid) : aq_plot_check(path);
}
