#!/usr/bin/env python3
"""The nibble command and the C sample as a person uses them: command_test.py BUILD_SAMPLES_DIR SOURCE_DIR.

The chat is held in a pseudo-terminal, with Ctrl-C, a resized window and pasted lines.
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
NIBBLE = os.path.join(BUILD, "nibble")
GENERATE = os.path.join(BUILD, "generate")
STORY = os.path.join(SOURCE, "samples", "models", "story-6m-awq")
FLOAT_STORY = os.path.join(SOURCE, "tests", "data", "story-6m")


def nibble(*arguments, text=None):
    return subprocess.run((NIBBLE,) + arguments, input=text, capture_output=True, encoding="utf-8", timeout=500)


def golden(name):
    with open(os.path.join(STORY, "golden.json"), encoding="utf-8") as file:
        return next(prompt for prompt in json.load(file)["prompts"] if prompt["name"] == name)


class Run(unittest.TestCase):
    def test_continues_a_text_as_other_tools_do(self):
        prompt = golden("plain")
        result = nibble("run", STORY, prompt["text"], "--raw", "-t", "0", "--repetition-penalty", "1", "-n", "40", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        answer = json.loads(result.stdout)
        self.assertTrue(prompt["greedy64_text"].startswith(answer["text"]), answer["text"])
        self.assertGreater(len(answer["text"]), 60)
        self.assertEqual(answer["prompt_tokens"], len(prompt["ids"]))
        self.assertEqual(answer["stop_reason"], "max tokens")

    def test_the_chat_template_is_used_where_there_is_one(self):
        prompt = golden("chat")
        question = prompt["messages"][0]["content"]
        result = nibble("run", STORY, question, "-t", "0", "--repetition-penalty", "1", "-n", "20", "--json")
        answer = json.loads(result.stdout)
        self.assertTrue(prompt["greedy64_text"].startswith(answer["text"]), answer["text"])
        self.assertEqual(answer["prompt_tokens"], len(prompt["ids"]))

    def test_the_same_seed_gives_the_same_story(self):
        first, second, other = (nibble("run", STORY, "Tell me a story.", "-n", "60", "--seed", seed).stdout for seed in "112")
        self.assertEqual(first, second)
        self.assertNotEqual(first, other)

    def test_options_as_json_are_also_the_sessions(self):
        def told(options, *more):
            return json.loads(nibble("run", STORY, "Tell me a story.", "-n", "30", "--json", "--options", json.dumps(options), *more).stdout)
        self.assertEqual(told({"context": 12})["stop_reason"], "context full")
        self.assertEqual(told({"context": 12}, "--context", "400")["stop_reason"], "max tokens")
        self.assertEqual(told({"seed": 3, "temperature": 2.0})["text"], told({"temperature": 2.0}, "--seed", "3")["text"])
        self.assertEqual(told({"do_sample": False})["text"], told({}, "-t", "0")["text"])

    def test_an_option_that_is_nearly_one_is_told(self):
        result = nibble("run", STORY, "Hi", "-n", "3", "--options", '{"precision": "fp32", "zero_point": true}')
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr.count('"precision" is no option and was ignored; is cpu_precision meant?'), 1, result.stderr)
        self.assertNotIn("zero_point", result.stderr)

    def test_what_is_no_command_is_named(self):
        result = nibble("rum", STORY)
        self.assertEqual(result.returncode, 2)
        self.assertIn('"rum" is no command', result.stderr)

    def test_the_line_of_facts_stays_out_of_the_answer(self):
        result = nibble("run", STORY, "Tell me a story.", "-n", "8")
        self.assertRegex(result.stderr, r"awq.* \| .* of weights \| .* \| prompt \d+ tokens, .* tokens/s \| answer 8 tokens")
        self.assertNotIn("tokens/s", result.stdout)
        self.assertNotIn("\033", result.stdout + result.stderr)

    def test_reads_the_prompt_from_standard_input(self):
        result = nibble("run", STORY, "-n", "8", "--json", text="Tell me a story about a bear.")
        self.assertEqual(json.loads(result.stdout)["prompt"], "Tell me a story about a bear.")

    def test_quantizes_while_loading(self):
        result = nibble("run", FLOAT_STORY, "Tell me a story.", "-n", "8", "--json", "--load-quant", "nf4")
        self.assertIn("nf4", json.loads(result.stdout)["format"])

    def test_failures_name_what_is_wrong(self):
        result = nibble("run", "/there/is/no/such/directory", "hello")
        self.assertEqual(result.returncode, 1)
        self.assertIn("/there/is/no/such/directory", result.stderr)
        self.assertEqual(nibble("run").returncode, 2)
        self.assertEqual(nibble("dance").returncode, 2)
        result = nibble("run", STORY, "hello", "--isa", "abacus")
        self.assertEqual(result.returncode, 1)
        self.assertIn("abacus", result.stderr)
        result = nibble("run", STORY, "hello", "--threads", "-1")
        self.assertEqual(result.returncode, 1)
        self.assertIn("n_threads is -1", result.stderr)
        result = nibble("run", STORY, b"\xff")
        self.assertEqual((result.returncode, result.stderr), (1, "nibble: the prompt is not UTF-8\n"))
        result = nibble("perplexity", STORY, "--file", SOURCE)
        self.assertEqual((result.returncode, result.stderr), (1, "nibble: cannot read %s\n" % SOURCE))

    def test_an_empty_prompt_is_a_prompt(self):
        result = nibble("run", STORY, "", "-n", "4", "--json", text="not this")
        self.assertEqual(json.loads(result.stdout)["prompt"], "")
        self.assertEqual(json.loads(nibble("tokenize", STORY, "", "--no-special", "--json", text="not this").stdout)["ids"], [])

    def test_a_full_context_is_told(self):
        result = nibble("run", STORY, "Tell me a story.", "--context", "16")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("the context is full", result.stderr)

    def test_what_cannot_be_written_is_a_failure(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run((NIBBLE, "inspect", STORY), stdout=full, stderr=subprocess.PIPE, encoding="utf-8")
        self.assertEqual((result.returncode, result.stderr), (1, "nibble: standard output could not be written\n"))

    def test_what_is_odd_about_a_checkpoint_is_told(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("model.safetensors", "tokenizer.json"):
                os.symlink(os.path.join(STORY, name), os.path.join(folder, name))
            with open(os.path.join(STORY, "config.json"), encoding="utf-8") as file:
                config = dict(json.load(file), num_hidden_layers=5)
            with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
                json.dump(config, file)
            result = nibble("run", folder, "hello", "-n", "2", "--json")
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("config.json counts 5 layers", result.stderr)
            json.loads(result.stdout)
            self.assertIn("counts 5 layers", json.loads(nibble("inspect", folder, "--json").stdout)["warnings"][0])

    def test_a_faulty_chat_template_is_no_other_prompt(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("config.json", "model.safetensors", "tokenizer.json"):
                os.symlink(os.path.join(STORY, name), os.path.join(folder, name))
            with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as file:
                file.write("{% for message in messages %}")
            for command in (("run", folder, "hello"), ("chat", folder)):
                result = nibble(*command, text="")
                self.assertEqual(result.returncode, 1)
                self.assertIn("Unexpected end of template", result.stderr)
            self.assertEqual(nibble("run", folder, "hello", "--raw", "-n", "2").returncode, 0)
            os.remove(os.path.join(folder, "tokenizer.json"))
            self.assertIn("holds no tokenizer.json", nibble("chat", folder, text="").stderr)


class OtherCommands(unittest.TestCase):
    def test_tokenize_gives_the_ids_of_other_tools(self):
        prompt = golden("plain")
        result = nibble("tokenize", STORY, prompt["text"], "--json")
        self.assertEqual(json.loads(result.stdout)["ids"], prompt["ids"])

    def test_inspect_reads_no_weights(self):
        result = json.loads(nibble("inspect", STORY, "--json").stdout)
        self.assertTrue(result["loadable"])
        self.assertEqual(result["architectures"], ["LlamaForCausalLM"])
        self.assertEqual(result["quantization"]["quant_method"], "awq")

    def test_inspect_tells_what_a_load_would_refuse(self):
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(os.path.join(STORY, "config.json"), os.path.join(folder, "config.json"))
            with open(os.path.join(STORY, "model.safetensors"), "rb") as file:
                weights = file.read()
            with open(os.path.join(folder, "model.safetensors"), "wb") as file:
                file.write(weights.replace(b".layers.5.mlp.up_proj.qweight", b".layers.5.mlp.up_proj.xweight"))
            result = json.loads(nibble("inspect", folder, "--json").stdout)
            self.assertFalse(result["loadable"])
            self.assertIn("model.layers.5.mlp.up_proj is stored in a format that is not known here", result["problem"])
            self.assertIn(result["problem"], nibble("describe", folder).stderr)

    def test_describe_names_every_linear_layer(self):
        description = json.loads(nibble("describe", STORY, "--json").stdout)
        names = [name for module in description["modules"] for name in module["names"]]
        self.assertIn("model.layers.5.mlp.down_proj", names)
        self.assertIn("model.layers.0.self_attn.q_proj", names)
        self.assertEqual(sum(module["bytes"] for module in description["modules"]), description["footprint_bytes"])

    @unittest.skipIf(os.environ.get("NIBBLE_SANITIZE"), "63,000 tokens take too long under a sanitizer")
    def test_perplexity_is_what_transformers_computes(self):
        # golden.json of the float16 model: mean over 248 windows; the first windows' mean differs, so all are run.
        with open(os.path.join(FLOAT_STORY, "golden.json"), encoding="utf-8") as file:
            expected = json.load(file)["perplexity"]
        result = nibble("perplexity", FLOAT_STORY, "--file", os.path.join(FLOAT_STORY, "stories.txt"), "--window", "256", "--json")
        measured = json.loads(result.stdout)
        self.assertEqual(measured["windows"], expected["windows"])
        self.assertAlmostEqual(measured["perplexity"], expected["perplexity"], places=4)

    def test_bench_measures_a_shape_without_a_checkpoint(self):
        result = nibble("bench", "--shape", "smollm2-135m", "--format", "awq-g64", "--prompt", "16", "--decode", "4", "--repeats", "1",
                        "--no-probe", "--json", "--device", "cpu")
        self.assertEqual(result.returncode, 0, result.stderr)
        row = json.loads(result.stdout)[0]["rows"][0]
        self.assertEqual(row["prompt_tokens"], 16)
        self.assertGreater(row["prefill_tokens_per_second"], 0)

    def test_bench_gives_the_share_of_the_bandwidth_beside_each_repeat(self):
        result = nibble("bench", STORY, "--prompt", "4,8", "--decode", "4", "--repeats", "1", "--json", "--device", "cpu", "--threads", "1")
        self.assertEqual(result.returncode, 0, result.stderr)
        model = json.loads(result.stdout)[0]
        self.assertEqual([row["prompt_tokens"] for row in model["rows"]], [4, 8])
        for row in model["rows"]:
            bandwidth = row["read_bandwidth_bytes_per_second"]
            self.assertGreater(bandwidth, 1e8)
            # Six layers, four key heads of 32, f16: keys and values of prompt + 1 .. prompt + 4 positions.
            self.assertEqual(row["kv_bytes_per_token"], 2 * 2 * 6 * 4 * 32 * (4 * row["prompt_tokens"] + 10) // 4)
            read = model["weight_bytes_per_token"] + row["kv_bytes_per_token"]
            self.assertAlmostEqual(row["bandwidth_share"] * bandwidth / (row["decode_tokens_per_second"] * read), 1)
        self.assertIn(model["read_bandwidth_bytes_per_second"], [row["read_bandwidth_bytes_per_second"] for row in model["rows"]])

    def test_bench_decodes_as_much_as_it_prefills_and_compares(self):
        flags = ("--prompt", "8,4", "--decode", "0", "--batch", "1,2", "--repeats", "1", "--no-probe", "--device", "cpu")
        result = nibble("bench", STORY, STORY, "--json", *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        for model in json.loads(result.stdout):
            rows = [(row["prompt_tokens"], row["decode_tokens"], row["batch"]) for row in model["rows"]]
            self.assertEqual(rows, [(8, 8, 1), (8, 8, 2), (4, 4, 1), (4, 4, 2)])
            self.assertGreater(model["multiply_operations_per_token"], 0)
            self.assertGreater(model["rows"][1]["memory_bytes"], model["rows"][0]["memory_bytes"])
        table = nibble("bench", STORY, STORY, *flags).stdout
        self.assertEqual(table.count("batch 2, prompt 8, decode 8"), 1)
        csv = nibble("bench", STORY, "--csv", *flags).stdout.splitlines()
        self.assertEqual(len(csv), 5)
        self.assertIn("memory_bytes", csv[0])
        self.assertEqual({line.count(",") for line in csv[1:]}, {csv[1].count(",")})

    def test_estimate_and_devices_speak_json(self):
        self.assertIsInstance(json.loads(nibble("estimate", STORY, "--json").stdout), dict)
        self.assertIn("library", json.loads(nibble("devices", "--json").stdout))

    def test_the_c_sample_writes_text(self):
        result = subprocess.run((GENERATE, STORY, "Once upon a time"), capture_output=True, encoding="utf-8", timeout=60)
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertGreater(len(result.stdout.split()), 10)
        self.assertEqual(subprocess.run((GENERATE, "/nowhere"), capture_output=True, timeout=60).returncode, 1)

    def test_the_command_uses_the_public_functions_only(self):
        symbols = subprocess.run(("nm", "-D", "--undefined-only", NIBBLE), capture_output=True, encoding="utf-8").stdout
        used = set(re.findall(r"\b_?[A-Za-z]*nbl\w*", symbols))
        with open(os.path.join(SOURCE, "include", "nibble.h"), encoding="utf-8") as file:
            declared = set(re.findall(r"\bnbl_\w+(?=\()", file.read()))
        self.assertTrue(used)
        self.assertEqual(used - declared, set())


class Terminal:
    """A program in a pseudo-terminal of its own, as the controlling one, so that Ctrl-C is a signal."""

    def __init__(self, *arguments):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(NIBBLE, (NIBBLE,) + arguments, dict(os.environ, TERM="xterm-256color"))
        self.seen = ""
        self.resize(80, 24)

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, pattern, seconds=60):
        """Reads on until what came since the last call matches; gives that back."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen, re.S):
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError("waited for %r, saw %r" % (pattern, self.seen[-2000:]))
            try:
                self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:  # the program has ended
                raise AssertionError("waited for %r, but the program ended after %r" % (pattern, self.seen[-2000:]))
        seen, self.seen = self.seen, ""
        return seen

    def end(self, seconds=20):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.master)
                return os.waitstatus_to_exitcode(status)
            ready, _, _ = select.select([self.master], [], [], 0.05)
            if ready:
                try:
                    self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError("the program did not end; saw %r" % self.seen[-2000:])


PROMPT = r"> \x1b\[0m\x1b\[K"


class Chat(unittest.TestCase):
    def test_a_conversation(self):
        terminal = Terminal("chat", STORY, "--seed", "1")
        terminal.wait_for(PROMPT)
        terminal.type("Tell me a story about a bear.\r")
        answer = terminal.wait_for(r"\n.*[.!?\"]\s*\r\n.*" + PROMPT)
        self.assertGreater(len(answer.split()), 20)
        terminal.resize(40, 12)
        terminal.type("/stats\r")
        terminal.wait_for(r"tokens/s.*" + PROMPT)
        terminal.type("/nonsense\r")
        terminal.wait_for(r"/reset .*" + PROMPT)
        terminal.type("/quit\r")
        self.assertEqual(terminal.end(), 0)

    def test_ctrl_c_stops_the_answer_and_not_the_program(self):
        # The model of doubles would answer for minutes.
        terminal = Terminal("chat", STORY, "--device", "ref", "--seed", "1")
        terminal.wait_for(PROMPT)
        terminal.type("Tell me a story about a bear.\r")
        terminal.wait_for(r"bear\.\x1b.*\n.*\w+ \w+")
        terminal.type("\x03")
        terminal.wait_for(r"stopped.*" + PROMPT)
        terminal.type("\x03")
        terminal.wait_for(r"again.*" + PROMPT)
        terminal.type("\x04")
        self.assertEqual(terminal.end(), 0)

    def test_pasted_and_continued_lines_are_one_message(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "chat.json")
            terminal = Terminal("chat", STORY, "--seed", "1", "-n", "4")
            terminal.wait_for(PROMPT)
            terminal.type("\x1b[200~one\rtwo\x1b[201~\r")
            terminal.wait_for(r"two\x1b.*\n.*" + PROMPT)
            terminal.type("three \\\r")
            terminal.wait_for(r"\.\.\. ")
            terminal.type("four\r")
            terminal.wait_for(r"four\x1b.*\n.*" + PROMPT)
            terminal.type("/save %s\r" % path)
            terminal.wait_for(r"saved 4 messages.*" + PROMPT)
            terminal.type("\x04")
            self.assertEqual(terminal.end(), 0)
            with open(path, encoding="utf-8") as file:
                messages = json.load(file)["messages"]
        self.assertEqual([message["content"] for message in messages if message["role"] == "user"], ["one\ntwo", "three \nfour"])

    def test_a_message_that_is_refused_leaves_no_trace(self):
        result = subprocess.run((NIBBLE, "chat", STORY, "--seed", "1", "-n", "8"), input=b"\xff\nTell me a story.\n", capture_output=True, timeout=60)
        refusal, answer = result.stdout.decode().split("\n", 1)
        self.assertEqual(refusal, "the message is not UTF-8")
        self.assertGreater(len(answer.split()), 3)
        self.assertNotIn("UTF-8", answer)

    def test_from_a_pipe_with_a_saved_conversation(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "chat.json")
            first = nibble("chat", STORY, "--seed", "1", "-n", "8", text='"""\nTell me a story\nabout a bear.\n"""\n/save %s\n' % path)
            self.assertEqual(first.returncode, 0, first.stderr)
            second = nibble("chat", STORY, "--seed", "1", "-n", "8", text="/load %s\n/save %s\n" % (path, path + "2"))
            self.assertIn("loaded 2 messages", second.stdout)
            with open(path, encoding="utf-8") as one, open(path + "2", encoding="utf-8") as two:
                self.assertEqual(json.load(one), json.load(two))
            with open(path + "3", "w", encoding="utf-8") as file:
                file.write('{"messages": [{"role": "user", "content": 3}]}')
            self.assertIn("a message is", nibble("chat", STORY, text="/load %s\n" % (path + "3")).stdout)
            third = nibble("chat", STORY, text="/load /no/such/file\n/load %s\n/quit\n" % NIBBLE)
            self.assertIn("cannot read /no/such/file", third.stdout)
            self.assertIn("not a saved conversation", third.stdout)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
