// The subcommands. Each adds itself to the program: its options, and what runs when it was asked for.
#pragma once

#include <CLI/CLI.hpp>

namespace commands {

void add_run(CLI::App& program);
void add_chat(CLI::App& program);
void add_inspect(CLI::App& program);
void add_describe(CLI::App& program);
void add_estimate(CLI::App& program);
void add_tokenize(CLI::App& program);
void add_bench(CLI::App& program);
void add_perplexity(CLI::App& program);
void add_devices(CLI::App& program);

}  // namespace commands
