/* CyxWiz escrow: a one-way payment channel from a user to the node that works for it.

   The user locks an amount. As work arrives, the user signs vouchers: cumulative amounts that the node has
   earned. Anyone may present a voucher; of what is newly earned a tenth goes to the platform and the rest
   to the node's payout wallet. What is not earned can only ever go back to the user: at once if the node
   agrees, after the claim window if user or arbiter ask, and by anyone's hand after the deadline.

   A finished escrow stays as a tombstone, so that it can be neither settled twice nor created again. Its
   deadline is part of its address: once that has passed, the rent may be returned (close) and the address
   can still not be used again.

   Invariants: nothing here trusts an account that the escrow does not name; every voucher counts for one
   escrow, one node and one user; the arbiter's word is worth no more than the cap that the user set. */

#include "sol.h"

typedef struct {
  u64 tag;
  u8 user[32], node[32], payout[32], arbiter[32], mint[32];
  u8 platform[32]; /* token account */
  u8 payer[32];    /* gets the rent back */
  u8 vault[32];    /* token account that holds the rest */
  u8 job[32];
  u64 amount, earned, arbiter_cap;
  i64 claim_window, deadline, refund_requested_at; /* seconds; 0: not requested */
  u64 status, bump;
} Escrow;

#define TAG 0x3152435345585943ULL /* "CYXESCR1" */
#define MAX_CLAIM_WINDOW (30LL * 24 * 3600)
#define MAX_LIFETIME (366LL * 24 * 3600)

enum { OPEN = 1, SETTLED = 2, REFUNDED = 3 };

enum {
  BAD_DATA = 101,
  BAD_ACCOUNTS,
  NOT_SIGNED,
  NOT_OPEN,
  WRONG_TOKEN,
  WRONG_ACCOUNT,
  WRONG_VAULT,
  TOO_EARLY,
  WRONG_AMOUNT,
  WRONG_PROGRAM,
  CALL_FAILED,
  WRONG_ADDRESS,
  NO_VOUCHER,
  NOTHING_NEW,
  WRONG_TIME,
};

#define REQUIRE(condition, error) \
  do {                            \
    if (!(condition)) return error; \
  } while (0)

#define KEY static const u8 __attribute__((aligned(8)))
KEY TOKEN_PROGRAM[32] = {6,   221, 246, 225, 215, 101, 161, 147, 217, 203, 225, 70,  206, 235, 121, 172,
                         28,  180, 133, 237, 95,  91,  55,  145, 58,  140, 245, 133, 126, 255, 0,   169};
KEY SYSTEM_PROGRAM[32] = {0};
KEY ED25519_PROGRAM[32] = {3, 125, 70, 214, 124, 147, 251, 190, 18, 249, 66, 143, 131, 141, 64, 255,
                           5, 112, 116, 73, 39, 244, 138, 100, 252, 202, 112, 68, 128, 0, 0, 0};
KEY INSTRUCTIONS_SYSVAR[32] = {6, 167, 213, 23, 24, 123, 209, 102, 53, 218, 212, 4, 85, 253, 194, 192,
                               193, 36, 198, 143, 33, 86, 117, 165, 219, 186, 203, 95, 8, 0, 0, 0};
KEY VOUCHER_TAG[17] = "CYXWIZ-VOUCHER-1";
static const u8 ESCROW_SEED[6] = {'e', 's', 'c', 'r', 'o', 'w'};

/* SPL token accounts and mints, by offset. */
enum { TOKEN_ACCOUNT_LEN = 165, MINT_LEN = 82, INITIALIZED = 1 };
#define TOKEN_MINT(account) ((account)->data)
#define TOKEN_OWNER(account) ((account)->data + 32)
#define TOKEN_AMOUNT(account) read64((account)->data + 64)
#define TOKEN_DELEGATE_SET(account) read32((account)->data + 72)
#define TOKEN_STATE(account) ((account)->data[108])
#define TOKEN_CLOSE_AUTHORITY_SET(account) read32((account)->data + 129)
#define MINT_DECIMALS(account) ((account)->data[44])

INLINE int is_token_account(const Account *a, const u8 *mint) {
  return same_key(a->owner, TOKEN_PROGRAM) && a->data_len == TOKEN_ACCOUNT_LEN &&
         same_key(TOKEN_MINT(a), mint) && TOKEN_STATE(a) == INITIALIZED;
}

/* What every call to another program needs; seeds are 0 where no signature of the escrow is wanted. */
typedef struct {
  const Account *accounts;
  u64 accounts_len;
  const SignerSeeds *seeds;
} Caller;

INLINE u64 call(const Caller *caller, Instruction *instruction) {
  return sol_invoke_signed_c(instruction, caller->accounts, (int)caller->accounts_len, caller->seeds,
                             caller->seeds ? 1 : 0);
}

typedef struct {
  const Account *from, *to, *authority, *mint;
} Transfer;

FUNCTION u64 transfer_tokens(const Caller *caller, const Transfer *t, u64 amount) {
  u8 data[16] __attribute__((aligned(8)));
  data[0] = 12; /* TransferChecked */
  *(u64 *)(data + 1) = amount;
  data[9] = MINT_DECIMALS(t->mint);
  Meta metas[4] = {{t->from->key, 1, 0}, {t->mint->key, 0, 0}, {t->to->key, 1, 0}, {t->authority->key, 0, 1}};
  Instruction instruction = {TOKEN_PROGRAM, metas, 4, data, 10};
  return call(caller, &instruction);
}

FUNCTION u64 close_vault(const Caller *caller, const Account *vault, const Account *to, const Account *escrow) {
  u8 data[1] = {9}; /* CloseAccount */
  Meta metas[3] = {{vault->key, 1, 0}, {to->key, 1, 0}, {escrow->key, 0, 1}};
  Instruction instruction = {TOKEN_PROGRAM, metas, 3, data, 1};
  return call(caller, &instruction);
}

/* System program: Assign(program), Transfer(lamports), Allocate(size). */
FUNCTION u64 assign(const Caller *caller, const Account *account, const u8 *program) {
  u8 data[40] __attribute__((aligned(8)));
  *(u32 *)data = 1;
  for (int i = 0; i < 32; i += 8) *(u64 *)(data + 4 + i) = read64(program + i);
  Meta metas[1] = {{account->key, 1, 1}};
  Instruction instruction = {SYSTEM_PROGRAM, metas, 1, data, 36};
  return call(caller, &instruction);
}

FUNCTION u64 transfer_lamports(const Caller *caller, const Account *from, const Account *to, u64 lamports) {
  u8 data[16] __attribute__((aligned(8)));
  *(u32 *)data = 2;
  *(u64 *)(data + 4) = lamports;
  Meta metas[2] = {{from->key, 1, 1}, {to->key, 1, 0}};
  Instruction instruction = {SYSTEM_PROGRAM, metas, 2, data, 12};
  return call(caller, &instruction);
}

FUNCTION u64 allocate(const Caller *caller, const Account *account, u64 size) {
  u8 data[16] __attribute__((aligned(8)));
  *(u32 *)data = 8;
  *(u64 *)(data + 4) = size;
  Meta metas[1] = {{account->key, 1, 1}};
  Instruction instruction = {SYSTEM_PROGRAM, metas, 1, data, 12};
  return call(caller, &instruction);
}

FUNCTION i64 now(void) {
  u64 clock[5]; /* slot, epoch start, epoch, leader schedule epoch, Unix time */
  sol_get_clock_sysvar(clock);
  return (i64)clock[4];
}

/* Seeds as the address has them; bump and deadline must outlive the calls that use the result. */
#define SEED_COUNT 5
INLINE void fill_seeds(Seed *seeds, const u8 *user, const u8 *job, const i64 *deadline, const u8 *bump) {
  seeds[0].bytes = ESCROW_SEED, seeds[0].len = sizeof ESCROW_SEED;
  seeds[1].bytes = user, seeds[1].len = 32;
  seeds[2].bytes = job, seeds[2].len = 32;
  seeds[3].bytes = (const u8 *)deadline, seeds[3].len = 8;
  seeds[4].bytes = bump, seeds[4].len = 1;
}

/* 0, or why the account is not an open escrow of this program. */
INLINE u64 check_open(const Account *account, const u8 *program) {
  REQUIRE(same_key(account->owner, program) && account->data_len == sizeof(Escrow), NOT_OPEN);
  const Escrow *escrow = (const Escrow *)account->data;
  REQUIRE(escrow->tag == TAG && escrow->status == OPEN, NOT_OPEN);
  return 0;
}

/* create: job[32] node[32] payout[32] arbiter[32] amount arbiter_cap claim_window deadline rent
   0 user (signs) 1 payer (signs) 2 escrow 3 vault 4 user's tokens 5 mint 6 platform's tokens
   7 token program 8 system program */
typedef struct {
  u8 job[32], node[32], payout[32], arbiter[32];
  u64 amount, arbiter_cap;
  i64 claim_window, deadline;
  u64 rent;
} Terms;

INLINE u64 check_create(const Account *a, const Terms *terms) {
  const Account *user = &a[0], *escrow = &a[2], *vault = &a[3], *source = &a[4], *mint = &a[5];
  REQUIRE(user->is_signer && a[1].is_signer, NOT_SIGNED);
  REQUIRE(same_key(a[7].key, TOKEN_PROGRAM) && same_key(a[8].key, SYSTEM_PROGRAM), WRONG_PROGRAM);
  REQUIRE(terms->amount && terms->arbiter_cap <= terms->amount, WRONG_AMOUNT);
  /* Lamports sent to the address beforehand must not stand in the way; data or another owner would. */
  REQUIRE(escrow->data_len == 0 && same_key(escrow->owner, SYSTEM_PROGRAM), NOT_OPEN);
  REQUIRE(same_key(mint->owner, TOKEN_PROGRAM) && mint->data_len == MINT_LEN, WRONG_TOKEN);
  REQUIRE(is_token_account(source, mint->key) && is_token_account(&a[6], mint->key), WRONG_TOKEN);
  REQUIRE(same_key(TOKEN_OWNER(source), user->key), WRONG_ACCOUNT);
  REQUIRE(is_token_account(vault, mint->key) && same_key(TOKEN_OWNER(vault), escrow->key), WRONG_VAULT);
  REQUIRE(!TOKEN_DELEGATE_SET(vault) && !TOKEN_CLOSE_AUTHORITY_SET(vault), WRONG_VAULT);
  i64 time = now();
  REQUIRE(terms->deadline > time && terms->deadline <= time + MAX_LIFETIME, WRONG_TIME);
  REQUIRE(terms->claim_window >= 0 && terms->claim_window <= MAX_CLAIM_WINDOW, WRONG_TIME);
  return 0;
}

FUNCTION u64 create(Account *a, const Input *input) {
  REQUIRE(input->accounts_len == 9, BAD_ACCOUNTS);
  REQUIRE(input->data_len == 1 + sizeof(Terms), BAD_DATA);
  const Terms *terms = (const Terms *)(input->data + 1);
  u64 error = check_create(a, terms);
  if (error) return error;
  const Account *user = &a[0], *payer = &a[1], *account = &a[2], *vault = &a[3], *mint = &a[5];

  u8 address[32] __attribute__((aligned(8))), bump[8];
  i64 deadline = terms->deadline;
  Seed seeds[SEED_COUNT];
  fill_seeds(seeds, user->key, terms->job, &deadline, bump);
  REQUIRE(!sol_try_find_program_address(seeds, SEED_COUNT - 1, input->program_id, address, bump), WRONG_ADDRESS);
  REQUIRE(same_key(address, account->key), WRONG_ADDRESS);

  SignerSeeds signer = {seeds, SEED_COUNT};
  Caller as_escrow = {a, input->accounts_len, &signer}, as_is = {a, input->accounts_len, 0};
  u64 lamports = *account->lamports;
  if (lamports < terms->rent)
    REQUIRE(!transfer_lamports(&as_is, payer, account, terms->rent - lamports), CALL_FAILED);
  REQUIRE(!allocate(&as_escrow, account, sizeof(Escrow)), CALL_FAILED);
  REQUIRE(!assign(&as_escrow, account, input->program_id), CALL_FAILED);

  Escrow *escrow = (Escrow *)account->data;
  copy_key(escrow->user, user->key), copy_key(escrow->node, terms->node);
  copy_key(escrow->payout, terms->payout), copy_key(escrow->arbiter, terms->arbiter);
  copy_key(escrow->mint, mint->key), copy_key(escrow->platform, a[6].key);
  copy_key(escrow->payer, payer->key), copy_key(escrow->vault, vault->key);
  copy_key(escrow->job, terms->job);
  escrow->amount = terms->amount, escrow->arbiter_cap = terms->arbiter_cap;
  escrow->claim_window = terms->claim_window, escrow->deadline = deadline;
  escrow->status = OPEN, escrow->bump = bump[0], escrow->tag = TAG;

  Transfer lock = {&a[4], vault, user, mint};
  REQUIRE(!transfer_tokens(&as_is, &lock, terms->amount), CALL_FAILED);
  return 0;
}

/* -- vouchers */

/* What the Ed25519 precompile is told: one signature, and the offsets of its parts. */
typedef struct {
  u8 count, padding;
  u16 signature_at, signature_in, key_at, key_in, message_at, message_len, message_in;
} PrecompileHeader;

typedef struct {
  u8 tag[16], escrow[32], node[32], earned[8], final;
} Voucher;

enum { KEY_AT = 16, SIGNATURE_AT = 48, MESSAGE_AT = 112, THIS_INSTRUCTION = 0xffff };

/* The data of the instruction directly before the running one if it is a call of the Ed25519 precompile in
   the one layout that we accept, else 0. The runtime has verified the signature before any program ran.

   Sysvar: count u16, offset u16 for each; instruction: account count u16, 33 bytes for each, program[32],
   data length u16, data; the index of the running instruction is the last u16. */
INLINE const u8 *preceding_precompile_call(const Account *sysvar) {
  if (!same_key(sysvar->key, INSTRUCTIONS_SYSVAR)) return 0;
  u16 running = read16(sysvar->data + sysvar->data_len - 2);
  if (running == 0) return 0;
  const u8 *p = sysvar->data + read16(sysvar->data + 2 * running);
  p += 2 + 33 * (u64)read16(p);
  if (!same_key(p, ED25519_PROGRAM)) return 0;
  if (read16(p + 32) != MESSAGE_AT + sizeof(Voucher)) return 0;
  const u8 *data = p + 34;
  const PrecompileHeader *h = (const PrecompileHeader *)data;
  /* Offsets that point anywhere else would have something verified that is not what is read here. */
  if (h->count != 1 || h->signature_at != SIGNATURE_AT || h->key_at != KEY_AT || h->message_at != MESSAGE_AT)
    return 0;
  if (h->message_len != sizeof(Voucher)) return 0;
  if (h->signature_in != THIS_INSTRUCTION || h->key_in != THIS_INSTRUCTION || h->message_in != THIS_INSTRUCTION)
    return 0;
  return data;
}

/* The user's voucher for this escrow and node, or 0. */
INLINE const Voucher *find_voucher(const Account *sysvar, const Escrow *escrow, const u8 *address) {
  const u8 *data = preceding_precompile_call(sysvar);
  if (!data || !same_key(data + KEY_AT, escrow->user)) return 0;
  const Voucher *voucher = (const Voucher *)(data + MESSAGE_AT);
  if (read64(voucher->tag) != read64(VOUCHER_TAG) || read64(voucher->tag + 8) != read64(VOUCHER_TAG + 8)) return 0;
  if (!same_key(voucher->escrow, address) || !same_key(voucher->node, escrow->node)) return 0;
  return voucher->final <= 1 ? voucher : 0;
}

/* -- settling
   settle: no data
   settle by arbiter: earned u64
   0 node (may sign) or arbiter (signs) 1 escrow 2 vault 3 payout's tokens 4 platform's tokens
   5 user's tokens 6 payer 7 mint 8 token program; settle: 9 instructions sysvar */

typedef struct {
  u64 earned;
  int finish; /* return the rest to the user and close the vault */
} Outcome;

INLINE u64 check_accounts(const Account *a, const Escrow *escrow) {
  const u8 *mint = escrow->mint;
  REQUIRE(same_key(a[8].key, TOKEN_PROGRAM), WRONG_PROGRAM);
  REQUIRE(same_key(a[7].key, mint), WRONG_TOKEN);
  REQUIRE(same_key(a[2].key, escrow->vault), WRONG_VAULT);
  REQUIRE(same_key(a[4].key, escrow->platform) && same_key(a[6].key, escrow->payer), WRONG_ACCOUNT);
  REQUIRE(is_token_account(&a[3], mint), WRONG_TOKEN);
  REQUIRE(same_key(TOKEN_OWNER(&a[3]), escrow->payout), WRONG_ACCOUNT);
  return 0;
}

/* The rest can go to the user only. */
FUNCTION u64 return_rest(const Caller *caller, const Escrow *escrow, const Transfer *rest, const Account *payer) {
  u64 amount = TOKEN_AMOUNT(rest->from);
  if (amount) {
    REQUIRE(is_token_account(rest->to, escrow->mint), WRONG_TOKEN);
    REQUIRE(same_key(TOKEN_OWNER(rest->to), escrow->user), WRONG_ACCOUNT);
    REQUIRE(!transfer_tokens(caller, rest, amount), CALL_FAILED);
  }
  REQUIRE(!close_vault(caller, rest->from, payer, rest->authority), CALL_FAILED);
  return 0;
}

FUNCTION u64 pay(Account *a, const Input *input, Escrow *escrow, const Outcome *outcome) {
  u64 error = check_accounts(a, escrow);
  if (error) return error;
  u8 bump[8];
  bump[0] = (u8)escrow->bump;
  Seed seeds[SEED_COUNT];
  fill_seeds(seeds, escrow->user, escrow->job, &escrow->deadline, bump);
  SignerSeeds signer = {seeds, SEED_COUNT};
  Caller caller = {a, input->accounts_len, &signer};

  /* The platform's total is always floor(earned / 10), however many settlements it takes. */
  u64 before = escrow->earned;
  u64 fee = outcome->earned / 10 - before / 10;
  u64 share = outcome->earned - before - fee;
  /* A platform that closed its account forfeits the fee; it must not hold up the node. */
  if (fee && !is_token_account(&a[4], escrow->mint)) share += fee, fee = 0;
  escrow->earned = outcome->earned;
  if (outcome->finish) escrow->status = SETTLED;

  Transfer to_node = {&a[2], &a[3], &a[1], &a[7]}, to_platform = {&a[2], &a[4], &a[1], &a[7]};
  if (share) REQUIRE(!transfer_tokens(&caller, &to_node, share), CALL_FAILED);
  if (fee) REQUIRE(!transfer_tokens(&caller, &to_platform, fee), CALL_FAILED);
  if (!outcome->finish) return 0;
  Transfer rest = {&a[2], &a[5], &a[1], &a[7]};
  return return_rest(&caller, escrow, &rest, &a[6]);
}

FUNCTION u64 settle(Account *a, const Input *input) {
  REQUIRE(input->accounts_len == 10, BAD_ACCOUNTS);
  REQUIRE(input->data_len == 1, BAD_DATA);
  u64 error = check_open(&a[1], input->program_id);
  if (error) return error;
  Escrow *escrow = (Escrow *)a[1].data;
  REQUIRE(same_key(a[0].key, escrow->node), WRONG_ACCOUNT);
  const Voucher *voucher = find_voucher(&a[9], escrow, a[1].key);
  REQUIRE(voucher, NO_VOUCHER);

  u64 earned = read64(voucher->earned);
  REQUIRE(earned <= escrow->amount, WRONG_AMOUNT);
  REQUIRE(earned > escrow->earned || (voucher->final && earned == escrow->earned), NOTHING_NEW);
  /* A final voucher below the amount cuts the node off from newer ones. The user alone could sign one that
     says zero, so it returns the rest at once only with the node's signature. Otherwise it is what the
     user may do anyway: a request to refund, and the node has the claim window. */
  Outcome outcome = {earned, earned == escrow->amount || (voucher->final && a[0].is_signer)};
  if (voucher->final && !outcome.finish && escrow->refund_requested_at == 0)
    escrow->refund_requested_at = now();
  return pay(a, input, escrow, &outcome);
}

FUNCTION u64 settle_by_arbiter(Account *a, const Input *input) {
  REQUIRE(input->accounts_len == 9, BAD_ACCOUNTS);
  REQUIRE(input->data_len == 9, BAD_DATA);
  u64 error = check_open(&a[1], input->program_id);
  if (error) return error;
  Escrow *escrow = (Escrow *)a[1].data;
  REQUIRE(same_key(a[0].key, escrow->arbiter), WRONG_ACCOUNT);
  REQUIRE(a[0].is_signer, NOT_SIGNED);
  u64 earned = read64(input->data + 1);
  REQUIRE(earned <= escrow->arbiter_cap, WRONG_AMOUNT);
  REQUIRE(earned > escrow->earned, NOTHING_NEW);
  Outcome outcome = {earned, earned == escrow->amount};
  return pay(a, input, escrow, &outcome);
}

/* request refund: no data. 0 user or arbiter (signs) 1 escrow */
FUNCTION u64 request_refund(Account *a, const Input *input) {
  REQUIRE(input->accounts_len == 2, BAD_ACCOUNTS);
  REQUIRE(input->data_len == 1, BAD_DATA);
  u64 error = check_open(&a[1], input->program_id);
  if (error) return error;
  Escrow *escrow = (Escrow *)a[1].data;
  REQUIRE(same_key(a[0].key, escrow->user) || same_key(a[0].key, escrow->arbiter), WRONG_ACCOUNT);
  REQUIRE(a[0].is_signer, NOT_SIGNED);
  /* Asking again neither shortens nor prolongs the node's window. */
  if (escrow->refund_requested_at == 0) escrow->refund_requested_at = now();
  return 0;
}

/* refund: no data
   0 anyone, or the node (signs) 1 escrow 2 vault 3 user's tokens 4 payer 5 mint 6 token program */
FUNCTION u64 refund(Account *a, const Input *input) {
  REQUIRE(input->accounts_len == 7, BAD_ACCOUNTS);
  REQUIRE(input->data_len == 1, BAD_DATA);
  u64 error = check_open(&a[1], input->program_id);
  if (error) return error;
  Escrow *escrow = (Escrow *)a[1].data;
  REQUIRE(same_key(a[6].key, TOKEN_PROGRAM), WRONG_PROGRAM);
  REQUIRE(same_key(a[5].key, escrow->mint), WRONG_TOKEN);
  REQUIRE(same_key(a[2].key, escrow->vault), WRONG_VAULT);
  REQUIRE(same_key(a[4].key, escrow->payer), WRONG_ACCOUNT);

  int by_node = a[0].is_signer && same_key(a[0].key, escrow->node);
  i64 time = now(), requested = escrow->refund_requested_at;
  int window_over = requested != 0 && time >= requested + escrow->claim_window;
  REQUIRE(by_node || window_over || time >= escrow->deadline, TOO_EARLY);

  u8 bump[8];
  bump[0] = (u8)escrow->bump;
  Seed seeds[SEED_COUNT];
  fill_seeds(seeds, escrow->user, escrow->job, &escrow->deadline, bump);
  SignerSeeds signer = {seeds, SEED_COUNT};
  Caller caller = {a, input->accounts_len, &signer};
  escrow->status = REFUNDED;
  Transfer rest = {&a[2], &a[3], &a[1], &a[5]};
  return return_rest(&caller, escrow, &rest, &a[4]);
}

/* close: no data. 0 escrow 1 payer */
FUNCTION u64 close(Account *a, const Input *input) {
  REQUIRE(input->accounts_len == 2, BAD_ACCOUNTS);
  REQUIRE(input->data_len == 1, BAD_DATA);
  REQUIRE(same_key(a[0].owner, input->program_id) && a[0].data_len == sizeof(Escrow), NOT_OPEN);
  Escrow *escrow = (Escrow *)a[0].data;
  REQUIRE(escrow->tag == TAG && escrow->status != OPEN, NOT_OPEN);
  REQUIRE(same_key(a[1].key, escrow->payer), WRONG_ACCOUNT);
  REQUIRE(now() >= escrow->deadline, TOO_EARLY);
  *a[1].lamports += *a[0].lamports;
  *a[0].lamports = 0;
  escrow->tag = 0; /* should somebody keep the account alive with lamports of his own */
  return 0;
}

u64 entrypoint(u8 *bytes) {
  Account accounts[10];
  Input input;
  REQUIRE(parse_input(bytes, accounts, 10, &input), BAD_ACCOUNTS);
  REQUIRE(input.data_len >= 1, BAD_DATA);
  switch (input.data[0]) {
    case 0: return create(accounts, &input);
    case 1: return settle(accounts, &input);
    case 2: return settle_by_arbiter(accounts, &input);
    case 3: return request_refund(accounts, &input);
    case 4: return refund(accounts, &input);
    case 5: return close(accounts, &input);
    default: return BAD_DATA;
  }
}
