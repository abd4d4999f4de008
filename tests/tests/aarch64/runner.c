// Runs kernels of an image: `runner IMAGE`, launches on the standard input, memories back on the
// standard output. All numbers have 64 bits.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096, LINE = 64, MOST = 64 };

typedef void (*kernel)(const uint64_t *args, int64_t begin, int64_t end, char *scratch);

struct memory { char *at; uint64_t bytes; char *mapped; uint64_t mapped_bytes; };

static void take(void *to, uint64_t bytes) {
  if (bytes && fread(to, 1, bytes, stdin) != bytes) exit(3);
}

static uint64_t word(void) {
  uint64_t v;
  take(&v, sizeof v);
  return v;
}

// Memory that begins with a cache line and ends, but for less than another, where none is mapped.
static struct memory fenced(uint64_t bytes) {
  uint64_t all = (bytes + PAGE - 1) / PAGE * PAGE;
  char *p = mmap(0, all + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + all, PAGE, PROT_NONE)) exit(4);
  return (struct memory){p + (all - bytes) / LINE * LINE, bytes, p, all + PAGE};
}

// The image as it lies when loaded; nothing in it depends on where.
static char *code(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) exit(5);
  long bytes = ftell(file);
  rewind(file);
  char *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || fread(p, 1, bytes, file) != (size_t)bytes) exit(6);
  if (mprotect(p, bytes, PROT_READ | PROT_EXEC)) exit(7);
  __builtin___clear_cache(p, p + bytes);
  return p;
}

// One launch: the kernel's offset, its scratch, first and last instance, memories, symbols.
static void launch(char *image, uint64_t offset) {
  uint64_t scratch_bytes = word(), begin = word(), end = word(), count = word(), args[MOST];
  struct memory memories[MOST], scratch = fenced(scratch_bytes);
  if (count > MOST) exit(8);
  for (uint64_t i = 0; i < count; i++) {
    memories[i] = fenced(word());
    take(memories[i].at, memories[i].bytes);
    args[i] = (uint64_t)memories[i].at;
  }
  uint64_t symbols = word();
  if (count + symbols > MOST) exit(9);
  for (uint64_t i = 0; i < symbols; i++) args[count + i] = word();
  ((kernel)(image + offset))(args, begin, end, scratch.at);
  for (uint64_t i = 0; i < count; i++) {
    if (fwrite(memories[i].at, 1, memories[i].bytes, stdout) != memories[i].bytes) exit(10);
    munmap(memories[i].mapped, memories[i].mapped_bytes);
  }
  munmap(scratch.mapped, scratch.mapped_bytes);
  if (fflush(stdout)) exit(11);
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  char *image = code(argv[1]);
  uint64_t offset;
  while (fread(&offset, sizeof offset, 1, stdin) == 1) launch(image, offset);
  return 0;
}
