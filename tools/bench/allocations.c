/* SPDX-License-Identifier: GPL-3.0-only */
/*
 * Counts heap allocations of any dynamically linked program: the counting pass of the bench preloads it, the timed passes
 * never do. It stands before glibc's allocator, adds one to a counter in the file that EG_BENCH_ALLOCATIONS names (shared
 * with forked workers), and hands on to glibc. A program with an allocator of its own in the binary is not seen.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

struct counters {
	unsigned long calls;
	unsigned long bytes;
};

static struct counters nowhere;
static struct counters *counters = &nowhere;

__attribute__((constructor)) static void open_counters(void)
{
	const char *path = getenv("EG_BENCH_ALLOCATIONS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *mapped;

	if (fd < 0)
		return;
	mapped = mmap(NULL, sizeof(*counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (mapped != MAP_FAILED)
		counters = mapped;
}

static inline void count(size_t bytes)
{
	__atomic_fetch_add(&counters->calls, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&counters->bytes, bytes, __ATOMIC_RELAXED);
}

void *malloc(size_t size)
{
	count(size);
	return __libc_malloc(size);
}

void *calloc(size_t members, size_t size)
{
	count(members * size);
	return __libc_calloc(members, size);
}

void *realloc(void *old, size_t size)
{
	count(size);
	return __libc_realloc(old, size);
}

void *memalign(size_t alignment, size_t size)
{
	count(size);
	return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	count(size);
	return __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
	void *made;

	count(size);
	made = __libc_memalign(alignment, size);
	if (!made)
		return 12; /* ENOMEM */
	*out = made;
	return 0;
}
