/* Text out of a checkpoint directory in 25 lines of C:  generate DIR "prompt"
 * cc generate.c $(pkg-config --cflags --libs nibble) -o generate */
#include <nibble.h>
#include <stdio.h>

int main(int argc, char **argv) {
  nbl_error *error = NULL;
  nbl_model *model = NULL;
  nbl_session *session = NULL;
  const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
  if (argc < 2) return fprintf(stderr, "usage: generate DIR [PROMPT]\n"), 2;
  nbl_status status = nbl_model_load(argv[1], NBL_NTS, NULL, &model, &error);
  if (status == NBL_OK) status = nbl_session_create(model, NULL, &session, &error);
  if (status == NBL_OK) status = nbl_session_append_text(session, prompt, NBL_NTS, NBL_TOKENIZE_ADD_SPECIAL, &error);
  if (status == NBL_OK) status = nbl_session_begin(session, 200, &error);
  if (status == NBL_OK) fputs(prompt, stdout);
  while (status == NBL_OK) { /* NBL_DONE ends the answer */
    char text[256];
    size_t size = 0;
    status = nbl_session_next(session, NULL, text, sizeof text, &size, &error);
    if (status == NBL_OK) fwrite(text, 1, size, stdout), fflush(stdout);
  }
  puts(status < 0 ? nbl_error_message(error, NULL) : "");
  nbl_error_release(error);
  nbl_session_release(session);
  nbl_model_release(model);
  return status < 0;
}
