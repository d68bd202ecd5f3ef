/* Makes system calls that a container must not make, and prints what the kernel says: a line
 * "name error-number" for each, 0 for success. Runs inside; static, so that any image does. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *name, long result)
{
	printf("%s %d\n", name, result < 0 ? errno : 0);
	fflush(stdout);
}

#define TRY(name, ...) say(#name, syscall(SYS_##name, ##__VA_ARGS__))

/* In a process of its own: a call that is let through may change the caller or end it. */
static void apart(const char *name, void (*call)(void))
{
	int status = 0;
	pid_t child = fork();
	if (child == 0) {
		call();
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		printf("%s signal %d\n", name, WTERMSIG(status));
}

static void unshare_user(void) { TRY(unshare, CLONE_NEWUSER); }
static void clone_user(void)
{
	long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		_exit(0);
	say("clone_newuser", pid);
}
static void clone_three(void) { TRY(clone3, 0, 0); }

#ifdef __x86_64__
static void compat(void)
{
	/* 310 is unshare(2) of the 32-bit table, reached from 64-bit code. */
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(310), "b"(CLONE_NEWUSER) : "memory");
	errno = (int)-result;
	say("unshare_32_bit", result < 0 ? -1 : 0);
}
static void x32(void) { say("unshare_x32", syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER)); }
#endif

int main(void)
{
	TRY(io_uring_setup, 1, 0);
	TRY(io_uring_enter, -1, 0, 0, 0, 0, 0);
	TRY(io_uring_register, -1, 0, 0, 0);
	TRY(userfaultfd, 1); /* UFFD_USER_MODE_ONLY, which needs no capability */
	TRY(bpf, 0, 0, 0);
	TRY(perf_event_open, 0, 0, -1, -1, 0);
	TRY(keyctl, 0, 0, 0, 0, 0);
	TRY(add_key, 0, 0, 0, 0, 0);
	TRY(request_key, 0, 0, 0, 0);
	TRY(mount, 0, 0, 0, 0, 0);
	TRY(umount2, "/nowhere", 0);
	TRY(fsopen, "tmpfs", 0);
	TRY(fsconfig, -1, 0, 0, 0, 0);
	TRY(fsmount, -1, 0, 0);
	TRY(open_tree, -1, "", 0);
	TRY(move_mount, -1, "", -1, "", 0);
	TRY(mount_setattr, -1, "", 0, 0, 0);
	TRY(pivot_root, "/nowhere", "/nowhere");
	TRY(setns, -1, 0);
	TRY(open_by_handle_at, -1, 0, 0);
	TRY(init_module, 0, 0, "");
	TRY(finit_module, -1, "", 0);
	TRY(kexec_load, 0, 0, 0, 0);
	TRY(syslog, 10, 0, 0);
	TRY(swapoff, "/nowhere");
	TRY(quotactl, 0, 0, 0, 0);
	TRY(acct, "/nowhere");
	TRY(fanotify_init, 0, 0);
	TRY(lookup_dcookie, 0, 0, 0);
	say("socket_alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
	say("socket_vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
	/* The kernel takes the lower 32 bits of the family: AF_ALG again. */
	say("socket_alg_64_bit", syscall(SYS_socket, 0x100000000L | AF_ALG, SOCK_SEQPACKET, 0));
	say("socket_unix", socket(AF_UNIX, SOCK_STREAM, 0));
	say("socket_inet", socket(AF_INET, SOCK_STREAM, 0));
	say("socket_netlink", socket(AF_NETLINK, SOCK_RAW, 0));
	apart("unshare", unshare_user);
	apart("clone_newuser", clone_user);
	apart("clone3", clone_three);
#ifdef __x86_64__
	apart("unshare_32_bit", compat);
	apart("unshare_x32", x32);
#endif
	return 0;
}
