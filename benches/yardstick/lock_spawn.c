/* lock_spawn FILE COMMAND [ARG]...
 *
 * The least a wrapper can do that stays: open, lock, vfork, exec, wait.
 * No options, no record, no fence, no signals. What lockrun costs above
 * this is the price of its promises. */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) return 125;
    int fd = open(argv[1], O_RDONLY | O_CREAT, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) < 0) return 125;

    pid_t command = vfork();
    if (command == 0) {
        execv(argv[2], argv + 2);
        _exit(127);
    }
    int status;
    if (command < 0 || waitpid(command, &status, 0) < 0) return 125;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
