/* A QEMU that was taken over: it asks for the template's memory as QEMU does, and then tries to change it
   by every way that there is. It says what has worked, and ends with the number of such ways. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

static int worked;

static void must_fail(const char *what, long result) {
    if (result < 0) return;
    worked++;
    fprintf(stderr, "%s worked\n", what);
}

int main(void) {
    int fd = open("/memory", O_RDWR);
    if (fd < 0) {
        perror("open");
        return 100;
    }
    char bytes[] = "changed";
    struct iovec part = {bytes, sizeof bytes};
    must_fail("write", write(fd, bytes, sizeof bytes));
    must_fail("pwrite", pwrite(fd, bytes, sizeof bytes, 4096));
    must_fail("pwritev2", pwritev2(fd, &part, 1, 0, 0));
    must_fail("ftruncate", ftruncate(fd, 4096));
    must_fail("copy_file_range", copy_file_range(fd, &(off_t){0}, fd, &(off_t){8192}, 4096, 0));
    must_fail("fallocate", fallocate(fd, 0, 0, 1 << 30));
    must_fail("zero range", fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096));
    must_fail("fchmod", fchmod(fd, 0666));
    must_fail("fchown", fchown(fd, getuid(), getgid()));
    must_fail("fsetxattr", fsetxattr(fd, "user.x", "y", 1, 0));
    must_fail("lease", fcntl(fd, F_SETLEASE, F_WRLCK));
    int copy = dup(fd);
    must_fail("punch hole by another number",
              fallocate(copy, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    /* This one "works", and must do nothing: the test compares the file. */
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20)) {
        perror("punch hole");
        return 101;
    }
    must_fail("shared mapping", mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
    char *read_only = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (read_only == MAP_FAILED) return 102;
    must_fail("mprotect", mprotect(read_only, 4096, PROT_READ | PROT_WRITE));
    must_fail("MADV_REMOVE", madvise(read_only, 4096, MADV_REMOVE));
    char *own = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (own == MAP_FAILED) return 103;
    memset(own, 'x', 1 << 20);
    must_fail("MADV_REMOVE of a private mapping", madvise(own, 4096, MADV_REMOVE));
    if (madvise(own, 1 << 20, MADV_DONTNEED)) return 104;
    /* The way round: the same file opened once more. */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    must_fail("open of /proc/self/fd", open(path, O_RDWR | O_CLOEXEC));
    must_fail("open of /proc/self/fd for writing", open(path, O_WRONLY));
    must_fail("openat of the descriptor", openat(fd, "", O_RDWR | O_CLOEXEC));
    must_fail("linkat", linkat(fd, "", AT_FDCWD, "/link", AT_EMPTY_PATH));
    must_fail("mount of proc", syscall(SYS_fsopen, "proc", 0));
    must_fail("a second open", open("/memory", O_RDWR));
    must_fail("setuid", setuid(0));
    return worked;
}
