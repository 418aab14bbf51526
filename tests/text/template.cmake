# The tests of the chat templates; CMakeLists.txt includes this.
nibble_test(chat_template_test SOURCES chat_template_test.cc jinja_test.cc DEPENDS nibble_text)
