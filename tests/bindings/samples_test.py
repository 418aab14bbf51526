#!/usr/bin/env python3
"""The samples of a binding write what the C sample and the command write. The same test for every language:

    samples_test.py SOURCE_DIR C_SAMPLES_DIR GENERATE CHAT PARALLEL       the last three are command lines

What the samples of each language are, so that they can be compared:

    generate DIR [PROMPT]               as samples/generate.c: the same text, streamed; failures on stderr, exit status 1
    chat DIR [SEED [DEVICE]]            a line of input is a message, the whole conversation is sent each time; the answer is
                                        streamed, behind it a line break. The prompt is "> ", on standard output. Ctrl-C
                                        ends the answer, says "[stopped]", and the next message may come; at the prompt it
                                        ends the program, as the end of the input does, with exit status 0. Every turn's
                                        answer has at most 200 tokens.
    parallel DIR [SESSIONS [PROMPT]]    that many sessions (8) of one model at the same time, 100 tokens each, the session's
                                        number is its seed: for each in order a line "== seed N", then prompt and answer, and
                                        a line break. The seed 0 is that of generate.
"""
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
import unittest

SOURCE, C_SAMPLES = (os.path.abspath(path) for path in sys.argv[1:3])
GENERATE, CHAT, PARALLEL = (shlex.split(command) for command in sys.argv[3:6])
STORY = os.path.join(SOURCE, "samples", "models", "story-6m-awq")
NIBBLE = os.path.join(C_SAMPLES, "nibble")


def run(command, *arguments, text=""):
    return subprocess.run(list(command) + list(arguments), input=text, capture_output=True, encoding="utf-8", timeout=120)


def expected(prompt, tokens, seed, *more):
    result = run([NIBBLE], "run", STORY, prompt, "-n", str(tokens), "--seed", str(seed), "--json", *more)
    return json.loads(result.stdout)["text"]


class Generate(unittest.TestCase):
    def test_writes_what_the_c_sample_writes(self):
        for prompt in ("Once upon a time", "The little dog \U0001f415 l\u00e4uft"):
            result = run(GENERATE, STORY, prompt)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(result.stdout, run([os.path.join(C_SAMPLES, "generate")], STORY, prompt).stdout)
            self.assertGreater(len(result.stdout.split()), 20)

    def test_says_what_is_wrong(self):
        result = run(GENERATE, "/there/is/no/such/directory")
        self.assertEqual(result.returncode, 1)
        self.assertIn("/there/is/no/such/directory", result.stderr)


class Chat(unittest.TestCase):
    def test_answers_what_the_command_answers(self):
        questions = ("Tell me a story about a bear.", "Tell me a story about a red ball.")
        result = run(CHAT, STORY, "3", text="\n".join(questions) + "\n")
        self.assertEqual(result.returncode, 0, result.stderr)
        answers = result.stdout.split("> ")[1:]
        self.assertEqual(answers[0], expected(questions[0], 200, 3) + "\n")
        self.assertGreater(len(answers[1].split()), 10)
        self.assertEqual(result.stdout, run(CHAT, STORY, "3", text="\n".join(questions) + "\n").stdout)

    def test_ctrl_c_stops_the_answer_and_not_the_program(self):
        pid, master = pty.fork()  # a terminal of its own, so that Ctrl-C is a signal
        if pid == 0:
            os.execvp(CHAT[0], CHAT + [STORY, "1", "ref"])  # the reference in double would answer for minutes
        seen = ""

        def read(seconds):
            """What comes within a time; answers as a terminal does where it is asked for its cursor (Mono asks before it echoes)."""
            ready, _, _ = select.select([master], [], [], max(0, seconds))
            try:
                data = os.read(master, 65536).decode("utf-8", "replace") if ready else ""
            except OSError:
                data = ""
            for _ in range(data.count("\033[6n")):
                os.write(master, b"\033[1;1R")
            return data

        def wait_for(pattern):
            nonlocal seen
            deadline = time.monotonic() + 60
            while not re.search(pattern, seen, re.S):
                data = read(deadline - time.monotonic())
                if not data:
                    os.kill(pid, signal.SIGKILL)
                    raise AssertionError("waited for %r, saw %r" % (pattern, seen))
                seen += data
            seen = ""

        def wait_for_prompt(pattern):
            wait_for(pattern)
            while read(0.3):  # nobody types sooner
                pass

        wait_for_prompt("> ")
        os.write(master, b"Tell me a story about a bear.\n")
        wait_for(r"bear\.\r?\n.*\w+ \w+")
        os.write(master, b"\x03")
        wait_for_prompt(r"\[stopped\].*> ")
        os.write(master, b"Another one.\n")
        wait_for(r"one\.\r?\n.*\w+ \w+")
        os.write(master, b"\x03")
        wait_for_prompt(r"\[stopped\].*> ")
        os.write(master, b"\x03")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.assertEqual(os.waitstatus_to_exitcode(status), 0)
                os.close(master)
                return
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        self.fail("the program did not end")


class Parallel(unittest.TestCase):
    def test_each_session_writes_what_it_writes_alone(self):
        prompt = "Once upon a time"
        result = run(PARALLEL, STORY, "16", prompt)
        self.assertEqual(result.returncode, 0, result.stderr)
        texts = re.findall(r"== seed (\d+)\n(.*?)\n(?=== seed|\Z)", result.stdout, re.S)
        self.assertEqual([int(seed) for seed, _ in texts], list(range(16)))
        for seed, text in texts[:6]:
            self.assertEqual(text, prompt + expected(prompt, 100, seed, "--raw"))
        self.assertTrue(run([os.path.join(C_SAMPLES, "generate")], STORY, prompt).stdout.startswith(texts[0][1]))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
