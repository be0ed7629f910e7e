/* A command that holds the lock until told to end: it says `r` (running) on
 * standard output and ends at the end of its standard input. */
#include <unistd.h>

int main(void) {
    char byte = 'r';
    if (write(1, &byte, 1) != 1) return 125;
    while (read(0, &byte, 1) > 0) {}
    return 0;
}
