// Included before llama.cpp's sources where gcc is older than 14: its _tile_loadconfig tells the optimiser of 8
// of the 64 bytes that the instruction reads, and stores to the others may vanish.
#if defined(__AMX_TILE__) && !defined(__clang__) && __GNUC__ < 14
#include <immintrin.h>
#undef _tile_loadconfig
struct tile_config {
  char bytes[64];
};
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const struct tile_config *)(config)))
#endif
