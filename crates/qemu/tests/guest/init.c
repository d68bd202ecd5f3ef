/* The first process of a test's guest: it does what the lines on its port say, one answer a line. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

static char *filled;
static size_t filled_size;

static int disk(const char *path, int flags, char *bytes, size_t size) {
    int fd = open(path, flags);
    if (fd < 0) return -1;
    ssize_t done = flags == O_RDONLY ? read(fd, bytes, size) : write(fd, bytes, size);
    if (flags != O_RDONLY && fsync(fd)) done = -1;
    close(fd);
    return done == (ssize_t)size ? 0 : -1;
}

static void answer(FILE *port, char *line) {
    static char sector[4096] __attribute__((aligned(4096)));
    char word[64];
    unsigned long number;
    if (!strcmp(line, "ping")) {
        fputs("pong", port);
    } else if (sscanf(line, "fill %lu", &number) == 1) {
        /* So many MiB, each page another one. */
        filled_size = number << 20;
        filled = mmap(0, filled_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t i = 0; i < filled_size; i += 4096) *(size_t *)(filled + i) = i * 2654435761u + 1;
        fputs("filled", port);
    } else if (!strcmp(line, "check")) {
        size_t wrong = 0;
        for (size_t i = 0; i < filled_size; i += 4096)
            wrong += *(size_t *)(filled + i) != i * 2654435761u + 1;
        fprintf(port, "%zu wrong", wrong);
    } else if (!strcmp(line, "free")) {
        munmap(filled, filled_size);
        filled_size = 0;
        fputs("freed", port);
    } else if (sscanf(line, "read %63s", word) == 1) {
        if (disk(word, O_RDONLY, sector, sizeof sector)) fputs("failed", port);
        else fwrite(sector, 1, strnlen(sector, 64), port);
    } else if (sscanf(line, "write %63s", word) == 1) {
        memset(sector, 0, sizeof sector);
        strcpy(sector, "written by the guest");
        fputs(disk(word, O_WRONLY, sector, sizeof sector) ? "failed" : "written", port);
    } else if (sscanf(line, "size %63s", word) == 1) {
        int fd = open(word, O_RDONLY);
        fprintf(port, "%lld", fd < 0 ? -1LL : (long long)lseek(fd, 0, SEEK_END));
        if (fd >= 0) close(fd);
    } else if (!strcmp(line, "cpus")) {
        fprintf(port, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    } else if (!strcmp(line, "off")) {
        reboot(RB_AUTOBOOT);
    } else {
        fputs("what?", port);
    }
    fputc('\n', port);
    fflush(port);
}

int main(void) {
    static char line[256];
    mkdir("/dev", 0755);
    mount("dev", "/dev", "devtmpfs", 0, 0);
    puts("the test's first process runs");
    int fd;
    while ((fd = open("/dev/vport0p1", O_RDWR)) < 0) usleep(1000);
    FILE *from = fdopen(fd, "r"), *to = fdopen(dup(fd), "w");
    for (;;) {
        /* Without a host at the other end there is nothing to read. */
        if (!fgets(line, sizeof line, from)) {
            clearerr(from);
            usleep(1000);
            continue;
        }
        line[strcspn(line, "\n")] = 0;
        answer(to, line);
    }
}
