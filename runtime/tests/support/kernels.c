/* Source of the machine code in code_x86_64.rs and code_aarch64.rs: kernels in the runtime's ABI,
   small enough to be checked by hand. Not built by cargo. Rebuilt with
     gcc -O1 -ffreestanding -fno-unwind-tables -fno-asynchronous-unwind-tables -fPIC \
         -fcf-protection=none -fno-stack-protector \
         -fno-tree-loop-distribute-patterns -ffunction-sections -c kernels.c
     objcopy -O binary --only-section=.text.NAME kernels.o NAME.bin */
typedef long i64;
typedef unsigned long u64;

/* x[i] = 3 i + n */
void fill(const u64 *a, i64 begin, i64 end, char *scratch) {
    int *x = (int *)a[0];
    i64 n = a[1];
    for (i64 i = begin; i < end; i++) x[i] = 3 * i + n;
}

/* y[i] = i + sum of x[0..n], gathered in scratch */
void total(const u64 *a, i64 begin, i64 end, char *scratch) {
    const int *x = (const int *)a[0];
    int *y = (int *)a[1];
    i64 n = a[2];
    int *s = (int *)scratch;
    for (i64 i = begin; i < end; i++) {
        *s = i;
        for (i64 j = 0; j < n; j++) *s += x[j];
        y[i] = *s;
    }
}

/* list = (0, 0), (1, 1), (2, 4), ... of n tuples; the first word states n + extra[0] */
void tuples(const u64 *a, i64 begin, i64 end, char *scratch) {
    int *list = (int *)a[0];
    const int *extra = (const int *)a[1];
    i64 n = a[2];
    list[0] = n + extra[0];
    for (i64 r = 0; r < n; r++) {
        list[2 * r + 2] = r;
        list[2 * r + 3] = r * r;
    }
}

/* four instances per tuple: z[i] = 10 * square + i % 4 */
void visit(const u64 *a, i64 begin, i64 end, char *scratch) {
    const int *list = (const int *)a[0];
    int *z = (int *)a[1];
    for (i64 i = begin; i < end; i++) z[i] = 10 * list[2 * (i >> 2) + 3] + (i & 3);
}

/* state[slot[i]] = ids[i] */
void append(const u64 *a, i64 begin, i64 end, char *scratch) {
    const int *ids = (const int *)a[0];
    const int *slot = (const int *)a[1];
    int *state = (int *)a[2];
    for (i64 i = begin; i < end; i++) state[slot[i]] = ids[i];
}

/* logits[i, v] = weight[v] * (sum of the row's context in pages of 4) + sum of z[0..4n] + y[row] */
void attend(const u64 *a, i64 begin, i64 end, char *scratch) {
    const int *rows = (const int *)a[0], *pos = (const int *)a[1], *seq = (const int *)a[2];
    const int *pages = (const int *)a[3], *state = (const int *)a[4];
    const float *weight = (const float *)a[5];
    const int *z = (const int *)a[6], *y = (const int *)a[7];
    float *logits = (float *)a[8];
    i64 n = a[9], mp = a[10];
    for (i64 i = begin; i < end; i++) {
        int row = rows[i], context = 0, rest = y[row];
        for (i64 j = 0; j <= pos[row]; j++)
            context += state[pages[seq[row] * mp + (j >> 2)] * 4 + (j & 3)];
        for (i64 j = 0; j < 4 * n; j++) rest += z[j];
        for (i64 v = 0; v < 5; v++) logits[5 * i + v] = weight[v] * context + rest;
    }
}

/* out[i] = sum of the i-th 16 KiB of the input */
void scan(const u64 *a, i64 begin, i64 end, char *scratch) {
    const u64 *in = (const u64 *)a[0];
    u64 *out = (u64 *)a[1];
    for (i64 i = begin; i < end; i++) {
        u64 sum = 0;
        for (i64 j = 0; j < 2048; j++) sum += in[2048 * i + j];
        out[i] = sum;
    }
}
