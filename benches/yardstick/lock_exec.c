/* lock_exec FILE COMMAND [ARG]...
 *
 * The least a wrapper can do that becomes COMMAND: open, lock, exec. The
 * kernel frees the lock with COMMAND's last copy of the descriptor. */
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) return 125;
    int fd = open(argv[1], O_RDONLY | O_CREAT, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) < 0) return 125;
    execv(argv[2], argv + 2);
    return 127;
}
