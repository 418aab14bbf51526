/* What a token costs a C program beside computing it: binding_overhead DIR [STEPS]. A batch computes the tokens of 32 sessions;
 * taking them is timed. Prints "c N ns/token". binding_overhead.py puts it beside the other languages. */
#define _POSIX_C_SOURCE 199309L
#include <nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kSessions = 32, kWarmUp = 10 };

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void must(nbl_status status, nbl_error *error) {
  if (status >= 0) return;
  fprintf(stderr, "%s\n", nbl_error_message(error, NULL));
  exit(1);
}

int main(int argc, char **argv) {
  const int64_t steps = argc > 2 ? atoll(argv[2]) : 200;
  nbl_error *error = NULL;
  nbl_model *model = NULL;
  nbl_batch *batch = NULL;
  nbl_config *config = NULL;
  nbl_session *sessions[kSessions];
  int64_t taken = 0, tokens = 0, bytes = 0;
  if (argc < 2) return fprintf(stderr, "usage: binding_overhead DIR [STEPS]\n"), 2;
  must(nbl_model_load(argv[1], NBL_NTS, NULL, &model, &error), error);
  must(nbl_batch_create(model, NULL, &batch, &error), error);
  must(nbl_config_create(&config, &error), error);
  must(nbl_config_set_i64(config, NBL_OPT_IGNORE_EOS, 1, &error), error);
  for (int i = 0; i < kSessions; ++i) {
    must(nbl_session_create(model, config, &sessions[i], &error), error);
    must(nbl_session_append_text(sessions[i], "Once upon a time", NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, &error), error);
    must(nbl_session_begin(sessions[i], steps + kWarmUp, &error), error);
    must(nbl_batch_add(batch, sessions[i], &error), error);
  }
  for (int64_t step = 0; step < steps + kWarmUp; ++step) {
    int64_t active = 0;
    must(nbl_batch_step(batch, &active, &error), error);
    const int64_t start = now_ns();
    for (int i = 0; i < kSessions; ++i) {
      char text[256];
      size_t size = 0;
      nbl_token id = 0;
      const nbl_status status = nbl_session_next(sessions[i], &id, text, sizeof text, &size, &error);
      must(status, error);
      if (step < kWarmUp || status != NBL_OK) continue;
      bytes += (int64_t)size;
      ++tokens;
    }
    if (step >= kWarmUp) taken += now_ns() - start;
  }
  for (int i = 0; i < kSessions; ++i) nbl_session_release(sessions[i]);
  nbl_config_release(config);
  nbl_batch_release(batch);
  nbl_model_release(model);
  if (bytes == 0 || tokens != steps * kSessions) return fprintf(stderr, "%lld tokens\n", (long long)tokens), 1;
  printf("c %lld ns/token\n", (long long)(taken / tokens));
  return 0;
}
