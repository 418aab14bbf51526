# The chat-template engine; CMakeLists.txt includes this.
list(APPEND NIBBLE_TEXT_SOURCES
  chat_request.cc chat_template.cc family_template.cc
  jinja/access.cc jinja/arguments.cc jinja/arithmetic.cc jinja/ast.cc jinja/character_tables.cc
  jinja/characters.cc jinja/container_methods.cc jinja/expression_parser.cc jinja/filters.cc
  jinja/filters_number.cc jinja/filters_selection.cc jinja/filters_sequence.cc jinja/filters_text.cc
  jinja/format.cc jinja/globals.cc jinja/interpreter.cc jinja/item_path.cc jinja/json_text.cc jinja/lexer.cc
  jinja/number.cc jinja/operators.cc jinja/parser.cc jinja/runtime.cc jinja/strftime.cc jinja/string_methods.cc
  jinja/strings.cc jinja/template.cc jinja/tests.cc jinja/text_of.cc jinja/value.cc
)
