/* stopwatch ROUNDS COMMAND [ARG]... [';' COMMAND [ARG]...]...
 *
 * Runs every COMMAND once a round and prints, for each run, a line
 *
 *     COMMAND'S-INDEX NANOSECONDS PAGE-FAULTS
 *
 * NANOSECONDS reach from before the vfork to after the wait; PAGE-FAULTS are
 * the minor ones of the process and of everything it waited for. It is a
 * program of its own, small and static, so that next to nothing but the
 * command is measured. Each round is shuffled, so that no command always
 * profits (caches) or suffers (a busy core) from the same one before it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* xorshift64: the same shuffles in every run. */
static uint64_t draw(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void shuffle(int *order, int count) {
    for (int last = count - 1; last > 0; last--) {
        int other = (int)(draw() % (uint64_t)(last + 1));
        int swapped = order[last];
        order[last] = order[other];
        order[other] = swapped;
    }
}

struct run {
    int64_t nanoseconds;
    long page_faults;
    int status;
};

static struct run run(char **command) {
    struct run run = {.status = -1};
    struct rusage usage;

    int64_t before = now();
    pid_t pid = vfork();
    if (pid == 0) {
        execv(command[0], command);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &run.status, 0, &usage) < 0) return run;
    run.nanoseconds = now() - before;
    run.page_faults = usage.ru_minflt;
    return run;
}

int main(int argc, char **argv) {
    if (argc < 3) return 125;
    long rounds = atol(argv[1]);
    char ***commands = calloc((size_t)argc, sizeof *commands);
    int *order = calloc((size_t)argc, sizeof *order);
    if (!commands || !order) return 125;

    int count = 0;
    commands[count++] = argv + 2;
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], ";") == 0) {
            argv[i] = NULL;
            commands[count++] = argv + i + 1;
        }
    for (int i = 0; i < count; i++) order[i] = i;

    for (long round = 0; round < rounds; round++) {
        shuffle(order, count);
        for (int i = 0; i < count; i++) {
            char **command = commands[order[i]];
            struct run measured = run(command);
            if (measured.status != 0) {
                fprintf(stderr, "stopwatch: %s: wait status %#x\n", command[0],
                        (unsigned)measured.status);
                return 1;
            }
            printf("%d %lld %ld\n", order[i], (long long)measured.nanoseconds,
                   measured.page_faults);
        }
    }
    return 0;
}
