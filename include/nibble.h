/* nibble.h - runs AWQ, GPTQ and bitsandbytes checkpoints of Hugging Face, on NVIDIA GPUs and on any CPU.
 *
 * GENERATED from bindings/spec/nibble.toml by bindings/generate.py; do not edit.
 *
 *     nbl_model *model; nbl_session *session; char *text;
 *     nbl_model_load("my-model", NBL_NTS, NULL, &model, NULL);
 *     nbl_session_create(model, NULL, &session, NULL);
 *     nbl_session_generate(session, "Once upon a time", NBL_NTS, 100, &text, NULL, NULL);
 *
 * Conventions, the same for every function:
 *  - A function that can fail returns nbl_status and takes `nbl_error **err` last; err may be NULL. On failure (< 0) *err
 *    receives a new error that the caller releases; otherwise it is not written.
 *  - Handles are opaque and counted inside: releasing NULL does nothing, release never fails, and order never matters,
 *    for a session keeps its model alive.
 *  - Text in is UTF-8, `const char *` and a length in bytes, without NUL; NBL_NTS as the length means "up to the NUL". NUL
 *    inside a text is a character like others. Text that is not UTF-8 is NBL_E_ARGUMENT with the offset.
 *  - Text out is `char **out, size_t *out_len`: the library allocates, nbl_free frees; it ends in NUL and out_len may be
 *    NULL. Where it is called for every token it is the caller's buffer instead: NBL_E_BUFFER writes the size needed,
 *    and nothing is lost.
 *  - Only fixed-width numbers, size_t and pointers cross: no structs, bools, C enums, or variable arguments.
 *  - [any]: from any thread, concurrently. [own]: from any thread, one call at a time for the first handle; a second one
 *    at the same time is NBL_E_BUSY. No function cares which thread it is called from.
 *  - [long]: may run for long; nbl_session_cancel or nbl_job_cancel ends it.
 *  - The library never prints, exits, aborts, reads the environment, or lets an exception out. */
#ifndef NIBBLE_H
#define NIBBLE_H

#include <stddef.h>
#include <stdint.h>

#define NBL_VERSION_MAJOR 1
#define NBL_VERSION_MINOR 0
#define NBL_VERSION_PATCH 0
#define NBL_ABI_VERSION (((uint32_t)NBL_VERSION_MAJOR << 16) | NBL_VERSION_MINOR) /* for nbl_abi_check */
#define NBL_API_HASH "c708a2a2f5753e5b" /* of every name, type and value below; nbl_build_info has the library's */
#define NBL_NTS ((size_t)-1)

#if defined(_WIN32)
#  ifdef NBL_BUILDING
#    define NBL_API __declspec(dllexport)
#  else
#    define NBL_API __declspec(dllimport)
#  endif
#  define NBL_CALL __cdecl
#elif defined(__GNUC__)
#  define NBL_API __attribute__((visibility("default")))
#  define NBL_CALL
#else
#  define NBL_API
#  define NBL_CALL
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nbl_error    nbl_error;   /* What went wrong: a code, a sentence, a JSON object. Immutable. */
typedef struct nbl_config   nbl_config;  /* A bag of typed options for loading, sessions, batches and measurements. */
typedef struct nbl_model    nbl_model;   /* Weights, tokenizer and chat template of a checkpoint. Immutable after load; shared by its sessions. */
typedef struct nbl_session  nbl_session; /* One token sequence: its cache, its sampling options, the generation that is running. */
typedef struct nbl_batch    nbl_batch;   /* Steps many sessions of one model together. */
typedef struct nbl_job      nbl_job;     /* A long operation on a thread of its own: a load, a measurement. */

typedef int32_t nbl_status;
enum {
  NBL_OK                 = 0,       /* success */
  NBL_DONE               = 1,       /* the generation has ended; not an error, no nbl_error is made */
  NBL_PENDING            = 2,       /* nothing yet within the time given */
  NBL_E_INTERNAL         = -1,      /* a fault in nibble itself; please report it */
  NBL_E_ARGUMENT         = -2,      /* an argument is NULL, out of range, or not UTF-8 */
  NBL_E_BUFFER           = -3,      /* the caller's buffer is too small; the size needed was written,
                                       nothing is lost */
  NBL_E_STATE            = -4,      /* not now: begin before append, a result before the end, ... */
  NBL_E_BUSY             = -5,      /* another thread is using this handle, or sessions still exist */
  NBL_E_CANCELLED        = -6,      /* cancelled by nbl_session_cancel or nbl_job_cancel */
  NBL_E_NO_MEMORY        = -7,      /* out of host memory */
  NBL_E_NO_DEVICE_MEMORY = -8,      /* out of device memory; the detail has needed and free bytes */
  NBL_E_DEVICE           = -9,      /* the GPU or its driver refused */
  NBL_E_DEVICE_LOST      = -10,     /* the GPU stopped working; other devices and the CPU go on */
  NBL_E_IO               = -11,     /* a file cannot be read */
  NBL_E_NOT_FOUND        = -12,     /* no such file, directory or thing */
  NBL_E_FORMAT           = -13,     /* a file is not what it should be; the message names tensor, found and
                                       expected */
  NBL_E_UNSUPPORTED      = -14,     /* understood, but not something nibble does */
  NBL_E_UNKNOWN_OPTION   = -15,     /* the option's number is not known to this library */
  NBL_E_OPTION_VALUE     = -16,     /* an option has the wrong type or a value out of range */
  NBL_E_CONTEXT_FULL     = -17,     /* more tokens than the session's context; the session stays usable */
  NBL_E_TEMPLATE         = -18,     /* the chat template failed; the message has its line */
  NBL_E_GRAMMAR          = -19,     /* reserved */
  NBL_E_ABI              = -20,     /* header and library do not fit; the message has both versions */
  NBL_E_NOT_FINITE       = -21      /* the model's logits hold NaN or infinity; the message has the
                                       position and what may have caused it */
};

typedef int32_t nbl_token; /* an id of the model's vocabulary */

/* Flags of nbl_tokenize, nbl_tokenize_spans and nbl_session_append_text. */
enum {
  NBL_TOKENIZE_ADD_SPECIAL   = 1,       /* add what the tokenizer adds around a text: <s>, </s>, ... */
  NBL_TOKENIZE_SPELL_SPECIAL = 2        /* special tokens that stand in the text are ordinary text: use it
                                           for text of others */
};

/* Flags of nbl_detokenize. */
enum {
  NBL_DETOKENIZE_SKIP_SPECIAL = 1        /* special tokens give no text */
};

/* Why a generation ended: NBL_PROP_STOP_REASON. */
enum {
  NBL_STOP_NONE       = 0,       /* it has not ended */
  NBL_STOP_EOS        = 1,       /* the model drew an end-of-text token */
  NBL_STOP_ID         = 2,       /* one of NBL_OPT_STOP_IDS */
  NBL_STOP_STRING     = 3,       /* one of NBL_OPT_STOP */
  NBL_STOP_MAX_TOKENS = 4,       /* as many tokens as begin, or NBL_OPT_MAX_LENGTH, allowed */
  NBL_STOP_CONTEXT    = 5,       /* the session's context is full */
  NBL_STOP_CANCELLED  = 6        /* nbl_session_cancel */
};

/* Log levels: everything up to the level is kept. */
enum {
  NBL_LOG_OFF     = 0,       /* nothing (the start) */
  NBL_LOG_ERROR   = 1,       /* failures */
  NBL_LOG_WARNING = 2,       /* what was odd but could be dealt with */
  NBL_LOG_INFO    = 3,       /* loads and placements */
  NBL_LOG_DEBUG   = 4        /* details */
};

/* Devices that are not GPUs, for nbl_model_move. */
enum {
  NBL_DEVICE_CPU = -1       /* the processor */
};

/* Properties, for nbl_model_i64, nbl_model_str, nbl_session_i64 and nbl_device_i64. */
typedef int32_t nbl_prop;
enum {
  NBL_PROP_FOOTPRINT           = 1,       /* model: bytes of the packed weights on their device */
  NBL_PROP_PARAMETERS          = 2,       /* model: number of parameters */
  NBL_PROP_LAYERS              = 3,       /* model: num_hidden_layers */
  NBL_PROP_HIDDEN              = 4,       /* model: hidden_size */
  NBL_PROP_HEADS               = 5,       /* model: num_attention_heads */
  NBL_PROP_KV_HEADS            = 6,       /* model: num_key_value_heads */
  NBL_PROP_VOCABULARY          = 7,       /* model: vocab_size: the number of logits */
  NBL_PROP_CONTEXT_TRAINED     = 8,       /* model: max_position_embeddings */
  NBL_PROP_LOAD_NS             = 9,       /* model: nanoseconds that the load took */
  NBL_PROP_EOS_TOKEN           = 10,      /* model: the first end-of-text id; -1 when there is none */
  NBL_PROP_BOS_TOKEN           = 11,      /* model: the begin-of-text id; -1 when there is none */
  NBL_PROP_ARCHITECTURE        = 30,      /* model text: LlamaForCausalLM, ... */
  NBL_PROP_BACKEND             = 31,      /* model text: ref, cpu, cuda:0, ... */
  NBL_PROP_BACKEND_DESCRIPTION = 32,      /* model text: instruction set or GPU, threads, precision */
  NBL_PROP_TOKENS              = 100,     /* session: tokens in the sequence */
  NBL_PROP_CONTEXT             = 101,     /* session: tokens that it may hold */
  NBL_PROP_PROMPT_TOKENS       = 102,     /* session: tokens appended since it was made or emptied */
  NBL_PROP_GENERATED_TOKENS    = 103,     /* session: tokens of the running or last generation */
  NBL_PROP_REUSED_TOKENS       = 104,     /* session: tokens that the last append_chat found in the cache */
  NBL_PROP_STOP_REASON         = 105,     /* session: NBL_STOP_* */
  NBL_PROP_PREFILL_NS          = 106,     /* session: nanoseconds of the last append */
  NBL_PROP_PREFILL_TOKENS      = 107,     /* session: tokens that the last append ran */
  NBL_PROP_DECODE_NS           = 108,     /* session: nanoseconds spent computing tokens of the running or
                                             last generation */
  NBL_PROP_DECODE_TOKENS       = 109,     /* session: tokens computed in that time */
  NBL_PROP_SESSION_BYTES       = 110,     /* session: bytes of cache and scratch */
  NBL_PROP_DEVICE_TOTAL_BYTES  = 200,     /* device: memory of the GPU */
  NBL_PROP_DEVICE_FREE_BYTES   = 201,     /* device: free memory */
  NBL_PROP_DEVICE_USED_BYTES   = 202,     /* device: used memory, by everybody */
  NBL_PROP_DEVICE_UTILIZATION  = 203,     /* device: per cent; E_UNSUPPORTED where NVML is missing */
  NBL_PROP_DEVICE_SM_MAJOR     = 204,     /* device: compute capability, before the point */
  NBL_PROP_DEVICE_SM_MINOR     = 205      /* device: compute capability, behind the point */
};

/* Options, for nbl_config_set_* and nbl_session_set_*. */
typedef int32_t nbl_option;
enum {
  NBL_OPT_DEVICE                 = 1000,    /* [load; text; default auto] Where the model runs: auto (the
                                               first GPU, else the CPU), cpu, ref (the reference in
                                               double), cuda, cuda:1, ... */
  NBL_OPT_MAX_MEMORY             = 1005,    /* [load; list of texts] Most bytes of a device, one entry
                                               each: 0=30GiB, cuda:1=46GB, cpu=16GB. A model that needs
                                               more on the device that it was given is refused before a
                                               weight is read (NO_DEVICE_MEMORY, NO_MEMORY); with DEVICE
                                               auto the next device is tried. In JSON the object of
                                               transformers: {"max_memory": {"0": "30GiB", "cpu": "16GB"}}. */
  NBL_OPT_KERNEL                 = 1006,    /* [load; one of auto, resident, launches, tiles, cublas;
                                               default auto] Kernels of a GPU: resident (a step of one
                                               token is one cooperative kernel), launches (every step is a
                                               sequence of launches), tiles (the same, and long prompts go
                                               without cuBLAS), cublas (long prompts go by cuBLAS); auto
                                               takes what is fastest of those that can run. A forced one
                                               that device or model is not for is refused (UNSUPPORTED), at
                                               load or when a session is created. nbl_session_describe
                                               tells which run. Names of other tools' kernels (exllama,
                                               marlin, gemm) are refused with what takes their layers; in
                                               JSON their switches are read over. The kernels of the CPU
                                               follow CPU_ISA and CPU_PRECISION. */
  NBL_OPT_N_THREADS              = 1001,    /* [load; whole number from 0 to 1024; default 0] Threads of
                                               the CPU backend; 0: the physical cores that this process may
                                               use. */
  NBL_OPT_CPU_ISA                = 1002,    /* [load; one of auto, generic, avx2, avxvnni, avx512vnni;
                                               default auto] Instruction set of the CPU kernels. One that
                                               the machine lacks is refused at load. */
  NBL_OPT_CPU_PRECISION          = 1003,    /* [load; one of exact16, fast8, fastest8, fp32; default
                                               exact16] Activations of the CPU kernels: exact16 (16-bit
                                               integers per group, closer to exact than float16), fast8 (8
                                               bits while reading the prompt), fastest8 (8 bits always),
                                               fp32 (float32, and weights rounded as the quantizing tool
                                               does). */
  NBL_OPT_SPIN                   = 1004,    /* [load; whole number from 0 to 1; default 1] Whether worker
                                               threads spin briefly between the stages of a step; 0 for
                                               hosts with more threads than cores. */
  NBL_OPT_LOAD_QUANT             = 1010,    /* [load; one of none, nf4, fp4, int8; default none] Quantizes
                                               float weights while loading, as bitsandbytes does.
                                               merge_json also takes load_in_4bit, load_in_8bit,
                                               bnb_4bit_quant_type. */
  NBL_OPT_QUANT_BLOCK            = 1011,    /* [load; whole number from 32 to 4096; default 64] Block size
                                               of nf4 and fp4: a power of two. */
  NBL_OPT_DOUBLE_QUANT           = 1012,    /* [load; whole number from 0 to 1; default 0] Whether the
                                               block scales of nf4 and fp4 are quantized too. */
  NBL_OPT_SKIP                   = 1013,    /* [load; list of texts] Modules that LOAD_QUANT leaves alone:
                                               a full path, its end behind a dot, or one of its segments.
                                               Empty: the output head. */
  NBL_OPT_INT8_THRESHOLD         = 1014,    /* [load; number from -1 to 65504; default -1] LLM.int8 as it
                                               was published, for int8 matrices: activations are rounded to
                                               8 bits a row, but for those of at least this size; 0: for
                                               none. Negative: they are not rounded, which is more exact. */
  NBL_OPT_CHAT_TEMPLATE          = 1020,    /* [load; text] A Jinja chat template that replaces the
                                               checkpoint's. */
  NBL_OPT_CONTEXT                = 2000,    /* [session, estimate; whole number from 0 to 16777216; default
                                               0] Tokens that a session may hold, prompt and answer
                                               together; 0: the smaller of 4096 and what the model was
                                               trained for. Their cache is reserved when the session is
                                               made. */
  NBL_OPT_KV_DTYPE               = 2001,    /* [session, estimate; one of f16, f32, int8; default f16] Type
                                               of the cached keys and values; int8 where the backend has
                                               it. */
  NBL_OPT_PREFILL_CHUNK          = 2002,    /* [session, estimate; whole number from 0 to 65536; default 0]
                                               Prompt tokens computed at a time: bounds scratch memory and
                                               how long a cancel takes. 0: what suits the device, 512 on
                                               the CPU and 2048 on a GPU. */
  NBL_OPT_LOGITS                 = 2003,    /* [session; one of last, all; default last] Whether
                                               nbl_session_logits gives the last token's logits or those of
                                               every token of the last append. */
  NBL_OPT_TEMPERATURE            = 3000,    /* [session, generation; number from 0.0 to 1000.0; default
                                               0.0] 0: greedy. The start is what the checkpoint's
                                               generation_config.json says, greedy where it says nothing. */
  NBL_OPT_TOP_K                  = 3001,    /* [session, generation; whole number from 0 to 2147483647;
                                               default 0] Draws from the k most probable tokens; 0: from
                                               all. */
  NBL_OPT_TOP_P                  = 3002,    /* [session, generation; number from 0.0 to 1.0; default 1.0]
                                               Draws from the smallest set of tokens whose probabilities
                                               reach p. */
  NBL_OPT_MIN_P                  = 3003,    /* [session, generation; number from 0.0 to 1.0; default 0.0]
                                               Draws from tokens of at least min_p times the best one's
                                               probability. */
  NBL_OPT_TYPICAL_P              = 3004,    /* [session, generation; number from 0.0 to 1.0; default 1.0]
                                               Locally typical sampling (arXiv:2202.00666). */
  NBL_OPT_REPETITION_PENALTY     = 3005,    /* [session, generation; number from 0.01 to 100.0; default
                                               1.0] Divides the positive logits of tokens that occurred,
                                               prompt included, and multiplies the negative ones. */
  NBL_OPT_PRESENCE_PENALTY       = 3006,    /* [session, generation; number from -100.0 to 100.0; default
                                               0.0] Subtracted once from the logit of a token that occurred
                                               in the answer. */
  NBL_OPT_FREQUENCY_PENALTY      = 3007,    /* [session, generation; number from -100.0 to 100.0; default
                                               0.0] Subtracted for each time a token occurred in the
                                               answer. */
  NBL_OPT_PENALTY_WINDOW         = 3008,    /* [session, generation; whole number from 0 to 16777216;
                                               default 0] Only the last so many tokens count for penalties;
                                               0: all. */
  NBL_OPT_SEED                   = 3009,    /* [session, generation; whole number; default 0] The same
                                               seed, prompt, options and device give the same answer. */
  NBL_OPT_MAX_LENGTH             = 3010,    /* [session, generation; whole number from 0 to 16777216;
                                               default 0] Ends a generation when prompt and answer together
                                               have so many tokens; 0: the context. */
  NBL_OPT_MIN_NEW_TOKENS         = 3011,    /* [session, generation; whole number from 0 to 16777216;
                                               default 0] End-of-text is not drawn before so many tokens. */
  NBL_OPT_IGNORE_EOS             = 3012,    /* [session, generation; whole number from 0 to 1; default 0]
                                               Goes on behind end-of-text. */
  NBL_OPT_SKIP_SPECIAL           = 3013,    /* [session, generation; whole number from 0 to 1; default 1]
                                               Special tokens of the answer give no text. */
  NBL_OPT_STOP                   = 3014,    /* [session, generation; list of texts] Texts that end a
                                               generation; they and what follows are not part of the
                                               answer. */
  NBL_OPT_STOP_IDS               = 3015,    /* [session, generation; list of texts] Token ids, as decimal
                                               text, that end a generation. */
  NBL_OPT_BATCH_SESSIONS         = 4000,    /* [batch; whole number from 1 to 4096; default 64] Sessions
                                               that a batch may hold. */
  NBL_OPT_BENCH_PROMPT           = 5000,    /* [bench; list of texts] Prompt lengths to measure, as decimal
                                               text; none: 128 and 512. */
  NBL_OPT_BENCH_DECODE           = 5001,    /* [bench; whole number from 1 to 1048576; default 64] Tokens
                                               to decode behind each prompt. */
  NBL_OPT_BENCH_BATCH            = 5002,    /* [bench; list of texts] Batch sizes to measure, as decimal
                                               text; none: 1. */
  NBL_OPT_BENCH_REPEATS          = 5003,    /* [bench; whole number from 1 to 1000; default 3] Repetitions;
                                               the median is told, and the best. */
  NBL_OPT_PERPLEXITY_WINDOW      = 5010,    /* [perplexity; whole number from 2 to 16777216; default 512]
                                               Tokens of a window. Windows do not overlap; each is run
                                               alone; an incomplete last one is dropped. */
  NBL_OPT_PERPLEXITY_MAX_WINDOWS = 5011     /* [perplexity; whole number from 0 to 16777216; default 0]
                                               Measures only the first so many windows; 0: all. */
};

typedef void(NBL_CALL *nbl_log_fn)(int32_t level, const char *text, size_t len, void *user);

/* ---- the library */

/* [any] "1.0.0"; static. */
NBL_API const char *NBL_CALL nbl_version(void);

/* [any] major << 16 | minor. */
NBL_API uint32_t NBL_CALL nbl_abi_version(void);

/* [any] E_ABI unless this library serves programs built against that version: the same major, a minor not
 * above its own. Bindings call it once. */
NBL_API nbl_status NBL_CALL nbl_abi_check(uint32_t built_against, nbl_error **err);

/* [any] What this library is: {"version", "api_hash", "cpu_isas": [...], "cuda": {...}, "sentencepiece",
 * ...}. */
NBL_API nbl_status NBL_CALL nbl_build_info(char **out, size_t *out_len, nbl_error **err);

/* [any] "NBL_E_FORMAT"; static; "NBL_UNKNOWN" for a number that is none. */
NBL_API const char *NBL_CALL nbl_status_name(nbl_status status);

/* [any] Frees what a function gave as `char **`. NULL is fine. */
NBL_API void NBL_CALL nbl_free(void *memory);

/* ---- errors */

/* [any] The code. NBL_OK for NULL. */
NBL_API nbl_status NBL_CALL nbl_error_status(const nbl_error *e);

/* [any] What was found, what was expected, the way out. Valid until the error is released; ends in NUL. ""
 * for NULL. */
NBL_API const char *NBL_CALL nbl_error_message(const nbl_error *e, size_t *len);

/* [any] The same for programs, a JSON object: {"file", "tensor", "found", "expected", "needed_bytes", ...},
 * each where it applies. */
NBL_API const char *NBL_CALL nbl_error_detail(const nbl_error *e, size_t *len);

/* [any] NULL is fine. */
NBL_API void NBL_CALL nbl_error_release(nbl_error *e);

/* ---- log: silent until a level is set; pull for bindings, push for C */

/* [any] NBL_LOG_*. Silent at the start. */
NBL_API void NBL_CALL nbl_log_level(int32_t level);

/* [any] [long] The next line of the log. PENDING when none came in time; timeout_ms < 0 waits for ever. The
 * oldest lines are dropped when nobody reads. */
NBL_API nbl_status NBL_CALL nbl_log_next(int32_t *level, char *buf, size_t buf_capacity, size_t *buf_len,
    int32_t timeout_ms, nbl_error **err);

/* [any] Lines go to `fn` at once, from whatever thread; it must not call nibble. NULL ends it. For C and C++;
 * bindings read nbl_log_next. */
NBL_API void NBL_CALL nbl_log_callback(nbl_log_fn fn, void *user);

/* ---- devices */

/* [any] Usable NVIDIA GPUs; 0 without GPU or driver. Never an error. */
NBL_API int32_t NBL_CALL nbl_device_count(void);

/* [any] A property of a GPU: NBL_PROP_DEVICE_*. */
NBL_API nbl_status NBL_CALL nbl_device_i64(int32_t device, nbl_prop prop, int64_t *value, nbl_error **err);

/* [any] "NVIDIA H200". */
NBL_API nbl_status NBL_CALL nbl_device_name(int32_t device, char **out, size_t *out_len, nbl_error **err);

/* ---- options */

/* [any] An empty bag: every option has its default. */
NBL_API nbl_status NBL_CALL nbl_config_create(nbl_config **out, nbl_error **err);

/* [any] NULL is fine. */
NBL_API void NBL_CALL nbl_config_release(nbl_config *c);

/* [own] Sets a whole number. UNKNOWN_OPTION, or OPTION_VALUE for a wrong type or range. */
NBL_API nbl_status NBL_CALL nbl_config_set_i64(nbl_config *c, nbl_option option, int64_t value,
    nbl_error **err);

/* [own] Sets a number. */
NBL_API nbl_status NBL_CALL nbl_config_set_f64(nbl_config *c, nbl_option option, double value,
    nbl_error **err);

/* [own] Sets a text. */
NBL_API nbl_status NBL_CALL nbl_config_set_str(nbl_config *c, nbl_option option, const char *value,
    size_t value_len, nbl_error **err);

/* [own] Adds to a list. */
NBL_API nbl_status NBL_CALL nbl_config_add_str(nbl_config *c, nbl_option option, const char *value,
    size_t value_len, nbl_error **err);

/* [own] Options from a JSON object with the key names of transformers (temperature, device_map, load_in_4bit,
 * the keys of AwqConfig, GPTQConfig, BitsAndBytesConfig, ...) or of this header in lower case (n_threads). A
 * key that says nothing here is ignored; an impossible value is OPTION_VALUE naming it. */
NBL_API nbl_status NBL_CALL nbl_config_merge_json(nbl_config *c, const char *json, size_t json_len,
    nbl_error **err);

/* [own] What was set, by the option names in lower case. */
NBL_API nbl_status NBL_CALL nbl_config_to_json(const nbl_config *c, char **out, size_t *out_len,
    nbl_error **err);

/* [any] How many options this library knows. */
NBL_API int32_t NBL_CALL nbl_option_count(void);

/* [any] The option at an index; 0 outside. */
NBL_API nbl_option NBL_CALL nbl_option_at(int32_t index);

/* [any] {"name", "id", "type", "default", "min", "max", "values", "for", "doc"}. */
NBL_API nbl_status NBL_CALL nbl_option_describe(nbl_option option, char **out, size_t *out_len,
    nbl_error **err);

/* ---- models */

/* [any] What a directory holds, without reading weights: {"architectures", "quantization", "loadable",
 * "problem", ...}. */
NBL_API nbl_status NBL_CALL nbl_model_inspect(const char *dir, size_t dir_len, char **out, size_t *out_len,
    nbl_error **err);

/* [any] Bytes that a load and one session would take: {"device", "weight_bytes", "kv_bytes", "scratch_bytes",
 * "total_bytes", "loadable", "problem", ...} on the device that a load by the same config takes; "problem" is
 * what it would be refused with, and "warnings" why other devices were passed over. No weights are read. */
NBL_API nbl_status NBL_CALL nbl_model_estimate(const char *dir, size_t dir_len, const nbl_config *c,
    char **out, size_t *out_len, nbl_error **err);

/* [any] [long] Loads a Hugging Face directory: config.json, *.safetensors, tokenizer files. A directory
 * without tokenizer files loads for use by token ids. */
NBL_API nbl_status NBL_CALL nbl_model_load(const char *dir, size_t dir_len, const nbl_config *c,
    nbl_model **out, nbl_error **err);

/* [any] The same as a job with progress and cancel; nbl_job_take_model gives the model. */
NBL_API nbl_status NBL_CALL nbl_model_load_start(const char *dir, size_t dir_len, const nbl_config *c,
    nbl_job **out, nbl_error **err);

/* [any] [long] A model of random weights, for measuring speed: {"shape": "mistral-7b", "format": "awq-g128"}.
 * It has no tokenizer. */
NBL_API nbl_status NBL_CALL nbl_model_synthesize(const char *request, size_t request_len, const nbl_config *c,
    nbl_model **out, nbl_error **err);

/* [any] NULL is fine. Sessions keep the model alive. */
NBL_API void NBL_CALL nbl_model_release(nbl_model *m);

/* [any] A number of the model: NBL_PROP_FOOTPRINT, ... */
NBL_API nbl_status NBL_CALL nbl_model_i64(const nbl_model *m, nbl_prop prop, int64_t *value, nbl_error **err);

/* [any] A text of the model: NBL_PROP_ARCHITECTURE, ... */
NBL_API nbl_status NBL_CALL nbl_model_str(const nbl_model *m, nbl_prop prop, char **out, size_t *out_len,
    nbl_error **err);

/* [any] Everything about it as JSON: format, shape, tokenizer, and for each module its device, format, kernel
 * and bytes. */
NBL_API nbl_status NBL_CALL nbl_model_describe(const nbl_model *m, char **out, size_t *out_len,
    nbl_error **err);

/* [any] [long] Moves the weights to a GPU (0, 1, ...) or to NBL_DEVICE_CPU. BUSY while sessions exist. */
NBL_API nbl_status NBL_CALL nbl_model_move(nbl_model *m, int32_t device, nbl_error **err);

/* [any] Text to ids; NBL_TOKENIZE_* flags. BUFFER when the array is too small, with the number needed. */
NBL_API nbl_status NBL_CALL nbl_tokenize(const nbl_model *m, const char *text, size_t text_len,
    uint32_t flags, nbl_token *ids, size_t ids_capacity, size_t *ids_count, nbl_error **err);

/* [any] The same with each token's byte offsets in the text; begin == end for a token that was added. */
NBL_API nbl_status NBL_CALL nbl_tokenize_spans(const nbl_model *m, const char *text, size_t text_len,
    uint32_t flags, nbl_token *ids, size_t ids_capacity, size_t *ids_count, uint64_t *begin, uint64_t *end,
    nbl_error **err);

/* [any] Ids to text; NBL_DETOKENIZE_* flags. Always valid UTF-8. */
NBL_API nbl_status NBL_CALL nbl_detokenize(const nbl_model *m, const nbl_token *ids, size_t ids_count,
    uint32_t flags, char *buf, size_t buf_capacity, size_t *buf_len, nbl_error **err);

/* [any] The raw bytes that a token stands for; they need not be UTF-8. */
NBL_API nbl_status NBL_CALL nbl_token_bytes(const nbl_model *m, nbl_token id, char *buf, size_t buf_capacity,
    size_t *buf_len, nbl_error **err);

/* [any] A conversation as the prompt that the model was trained on: {"messages": [{"role", "content"}, ...],
 * "tools"?, "add_generation_prompt"?, ...}. */
NBL_API nbl_status NBL_CALL nbl_chat_render(const nbl_model *m, const char *request, size_t request_len,
    char **out, size_t *out_len, nbl_error **err);

/* ---- sessions */

/* [any] Reserves the cache. Sessions of one model may run at the same time on several threads. */
NBL_API nbl_status NBL_CALL nbl_session_create(nbl_model *m, const nbl_config *c, nbl_session **out,
    nbl_error **err);

/* [any] NULL is fine. */
NBL_API void NBL_CALL nbl_session_release(nbl_session *s);

/* [own] Changes a generation option, also between two answers. */
NBL_API nbl_status NBL_CALL nbl_session_set_i64(nbl_session *s, nbl_option option, int64_t value,
    nbl_error **err);

/* [own] The same for a number. */
NBL_API nbl_status NBL_CALL nbl_session_set_f64(nbl_session *s, nbl_option option, double value,
    nbl_error **err);

/* [own] Adds to NBL_OPT_STOP or NBL_OPT_STOP_IDS. */
NBL_API nbl_status NBL_CALL nbl_session_add_str(nbl_session *s, nbl_option option, const char *value,
    size_t value_len, nbl_error **err);

/* [own] Gives a generation option its default again; empties a list. */
NBL_API nbl_status NBL_CALL nbl_session_clear(nbl_session *s, nbl_option option, nbl_error **err);

/* [own] Adds to the logits of these tokens; replaces earlier biases. No ids: none. */
NBL_API nbl_status NBL_CALL nbl_session_bias(nbl_session *s, const nbl_token *ids, size_t ids_count,
    const float *bias, nbl_error **err);

/* [own] [long] Runs tokens through the model. Ends a running generation. CONTEXT_FULL leaves the session as
 * it was. */
NBL_API nbl_status NBL_CALL nbl_session_append(nbl_session *s, const nbl_token *ids, size_t ids_count,
    nbl_error **err);

/* [own] [long] The same for text; NBL_TOKENIZE_* flags. */
NBL_API nbl_status NBL_CALL nbl_session_append_text(nbl_session *s, const char *text, size_t text_len,
    uint32_t flags, nbl_error **err);

/* [own] [long] Makes the rendered conversation (as nbl_chat_render takes it) the session's sequence. What is
 * in the cache already is kept, so that a turn costs what it adds. With "spell_special": true in the request,
 * control tokens that users and tools wrote into their messages are ordinary text. */
NBL_API nbl_status NBL_CALL nbl_session_append_chat(nbl_session *s, const char *request, size_t request_len,
    nbl_error **err);

/* [own] Arms a generation of at most max_tokens (< 0: up to the context) and clears a cancel. */
NBL_API nbl_status NBL_CALL nbl_session_begin(nbl_session *s, int64_t max_tokens, nbl_error **err);

/* [own] [long] The next token and the text that it completes: whole characters only, often none. DONE at the
 * end. BUFFER loses nothing: the token comes again. NOT_FINITE: the model computed no logits that a token
 * could be drawn from; the generation is over, the session goes on from what it holds. */
NBL_API nbl_status NBL_CALL nbl_session_next(nbl_session *s, nbl_token *id, char *buf, size_t buf_capacity,
    size_t *buf_len, nbl_error **err);

/* [own] [long] append_text with NBL_TOKENIZE_ADD_SPECIAL, begin, and next until the end, as one text. */
NBL_API nbl_status NBL_CALL nbl_session_generate(nbl_session *s, const char *prompt, size_t prompt_len,
    int64_t max_tokens, char **out, size_t *out_len, nbl_error **err);

/* [any] The running call returns CANCELLED soon. Any thread, any time, also in a signal handler. NULL is
 * fine. */
NBL_API void NBL_CALL nbl_session_cancel(nbl_session *s);

/* [own] Keeps the first `count` tokens; 0 empties the session. */
NBL_API nbl_status NBL_CALL nbl_session_truncate(nbl_session *s, int64_t count, nbl_error **err);

/* [own] A number of the session: NBL_PROP_TOKENS, ... */
NBL_API nbl_status NBL_CALL nbl_session_i64(const nbl_session *s, nbl_prop prop, int64_t *value,
    nbl_error **err);

/* [own] The sequence from an index on. */
NBL_API nbl_status NBL_CALL nbl_session_tokens(const nbl_session *s, int64_t from, nbl_token *ids,
    size_t ids_capacity, size_t *ids_count, nbl_error **err);

/* [own] The logits that the last token was drawn from, or after an append those that follow it:
 * NBL_PROP_VOCABULARY numbers, with NBL_OPT_LOGITS=all that many for each token appended. */
NBL_API nbl_status NBL_CALL nbl_session_logits(nbl_session *s, float *logits, size_t logits_capacity,
    size_t *logits_count, nbl_error **err);

/* [own] The most probable tokens of these logits, best first, with their natural log probabilities: as many
 * as the arrays hold. */
NBL_API nbl_status NBL_CALL nbl_session_top(nbl_session *s, nbl_token *ids, size_t ids_capacity,
    size_t *ids_count, float *logprobs, nbl_error **err);

/* [own] [long] Appends ids and tells the natural log probability of each, given all before it; NaN for the
 * first of an empty session. NOT_FINITE where the model computed no probabilities. */
NBL_API nbl_status NBL_CALL nbl_session_score(nbl_session *s, const nbl_token *ids, size_t ids_count,
    float *logprobs, nbl_error **err);

/* [own] Context, bytes and sampling options as JSON. */
NBL_API nbl_status NBL_CALL nbl_session_describe(const nbl_session *s, char **out, size_t *out_len,
    nbl_error **err);

/* ---- batches */

/* [any] Steps sessions of this model together, driven by the caller's own loop: no hidden thread. */
NBL_API nbl_status NBL_CALL nbl_batch_create(nbl_model *m, const nbl_config *c, nbl_batch **out,
    nbl_error **err);

/* [any] NULL is fine. */
NBL_API void NBL_CALL nbl_batch_release(nbl_batch *b);

/* [own] Adds a session of the same model. */
NBL_API nbl_status NBL_CALL nbl_batch_add(nbl_batch *b, nbl_session *s, nbl_error **err);

/* [own] NOT_FOUND when it is not in. */
NBL_API nbl_status NBL_CALL nbl_batch_remove(nbl_batch *b, nbl_session *s, nbl_error **err);

/* [own] [long] One token for every session that is generating and has none waiting; nbl_session_next on each
 * then never waits. `active`: generations that go on. Where no token could be drawn nbl_session_next says why
 * (NOT_FINITE), and the other sessions go on. */
NBL_API nbl_status NBL_CALL nbl_batch_step(nbl_batch *b, int64_t *active, nbl_error **err);

/* ---- jobs and the operations that run as one */

/* [any] Perplexity of a text as a job: {"perplexity", "mean_nll", "windows", ...}. */
NBL_API nbl_status NBL_CALL nbl_perplexity_start(nbl_model *m, const nbl_config *c, const char *text,
    size_t text_len, nbl_job **out, nbl_error **err);

/* [any] Prefill and decode speed as a job: {"rows": [{"batch", "prompt_tokens", "prefill_tokens_per_second",
 * "decode_tokens_per_second", ...}], ...}. */
NBL_API nbl_status NBL_CALL nbl_bench_start(nbl_model *m, const nbl_config *c, nbl_job **out,
    nbl_error **err);

/* [any] [long] OK when it has succeeded, PENDING when time ran out (< 0: waits for ever), else its failure. */
NBL_API nbl_status NBL_CALL nbl_job_wait(nbl_job *j, int32_t timeout_ms, nbl_error **err);

/* [any] How far it is; bytes for a load. */
NBL_API nbl_status NBL_CALL nbl_job_progress(const nbl_job *j, uint64_t *done, uint64_t *total,
    nbl_error **err);

/* [any] What it is doing, for a person. */
NBL_API nbl_status NBL_CALL nbl_job_stage(const nbl_job *j, char **out, size_t *out_len, nbl_error **err);

/* [any] Asks it to stop. Any thread, also in a signal handler. NULL is fine. */
NBL_API void NBL_CALL nbl_job_cancel(nbl_job *j);

/* [any] The model of a finished load, once. */
NBL_API nbl_status NBL_CALL nbl_job_take_model(nbl_job *j, nbl_model **out, nbl_error **err);

/* [any] The result of a finished measurement. */
NBL_API nbl_status NBL_CALL nbl_job_result(const nbl_job *j, char **out, size_t *out_len, nbl_error **err);

/* [any] The most memory that it has counted. */
NBL_API nbl_status NBL_CALL nbl_job_memory(const nbl_job *j, uint64_t *peak_bytes, nbl_error **err);

/* [any] Cancels it if it runs, and waits for its end. NULL is fine. */
NBL_API void NBL_CALL nbl_job_release(nbl_job *j);

#ifdef __cplusplus
}
#endif
#endif
