/* The little of Solana's C interface that the escrow needs: types, system calls, and the input's parser. */
#pragma once

typedef unsigned long long u64;
typedef long long i64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

#define INLINE static inline __attribute__((always_inline))
#define FUNCTION static __attribute__((noinline)) /* BPF: its own stack frame, at most five arguments */

/* Layouts fixed by the runtime. */
typedef struct {
  u8 *key;
  u64 *lamports;
  u64 data_len;
  u8 *data;
  u8 *owner;
  u64 rent_epoch;
  u8 is_signer, is_writable, executable;
} Account;

typedef struct {
  const u8 *key;
  u8 writable, signer;
} Meta;

typedef struct {
  const u8 *program;
  Meta *metas;
  u64 metas_len;
  const u8 *data;
  u64 data_len;
} Instruction;

typedef struct {
  const u8 *bytes;
  u64 len;
} Seed;

typedef struct {
  const Seed *seeds;
  u64 len;
} SignerSeeds;

extern u64 sol_invoke_signed_c(const Instruction *, const Account *, int, const SignerSeeds *, int);
extern u64 sol_try_find_program_address(const Seed *, int, const u8 *program, u8 *address, u8 *bump);
extern u64 sol_get_clock_sysvar(void *);

/* The virtual machine allows unaligned access. */
INLINE u16 read16(const u8 *p) { return *(const u16 *)p; }
INLINE u32 read32(const u8 *p) { return *(const u32 *)p; }
INLINE u64 read64(const u8 *p) { return *(const u64 *)p; }

INLINE int same_key(const u8 *a, const u8 *b) {
  return read64(a) == read64(b) && read64(a + 8) == read64(b + 8) && read64(a + 16) == read64(b + 16) &&
         read64(a + 24) == read64(b + 24);
}

INLINE void copy_key(u8 *to, const u8 *from) {
  for (int i = 0; i < 32; i += 8) *(u64 *)(to + i) = read64(from + i);
}

typedef struct {
  u64 accounts_len;
  const u8 *data;
  u64 data_len;
  const u8 *program_id;
} Input;

/* Fills accounts[0..accounts_len). Returns 0 if there are more than max. */
FUNCTION int parse_input(u8 *p, Account *accounts, u64 max, Input *input) {
  u64 n = read64(p);
  p += 8;
  if (n > max) return 0;
  for (u64 i = 0; i < n; i++) {
    Account *a = &accounts[i];
    u8 duplicate_of = p[0];
    if (duplicate_of != 0xff) {
      if (duplicate_of >= i) return 0;
      const Account *b = &accounts[duplicate_of];
      a->key = b->key, a->lamports = b->lamports, a->data_len = b->data_len, a->data = b->data;
      a->owner = b->owner, a->rent_epoch = b->rent_epoch;
      a->is_signer = b->is_signer, a->is_writable = b->is_writable, a->executable = b->executable;
      p += 8;
      continue;
    }
    a->is_signer = p[1], a->is_writable = p[2], a->executable = p[3];
    a->key = p + 8, a->owner = p + 40;
    a->lamports = (u64 *)(p + 72);
    a->data_len = read64(p + 80);
    a->data = p + 88;
    p += 88 + a->data_len + 10240; /* room to grow by MAX_PERMITTED_DATA_INCREASE */
    p = (u8 *)(((u64)p + 7) & ~7ULL);
    a->rent_epoch = read64(p);
    p += 8;
  }
  input->accounts_len = n;
  input->data_len = read64(p);
  input->data = p + 8;
  input->program_id = p + 8 + input->data_len;
  return 1;
}
