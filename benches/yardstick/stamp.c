/* stamp FILE ID [MICROSECONDS]
 *
 * A command that leaves one record in FILE: its ID, when it began and when
 * it ended, in nanoseconds of CLOCK_MONOTONIC. It sleeps MICROSECONDS in
 * between. The record is one appending write, so that commands that run
 * at the same time leave whole records too; it is the last act before the
 * exit, and the clock is read right before it. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

int main(int argc, char **argv) {
    int64_t record[3];
    record[1] = now();
    if (argc < 3) return 125;
    record[0] = atoll(argv[2]);
    int fd = open(argv[1], O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) return 125;
    if (argc > 3) usleep((useconds_t)atol(argv[3]));
    record[2] = now();
    return write(fd, record, sizeof record) == sizeof record ? 0 : 125;
}
