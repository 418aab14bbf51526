"""The header with what may go wrong with it, each alone, for tests of what checks the interface."""
import re


def changed(text, old, new):
    """The text with one place changed; blanks of any number are one blank."""
    text, count = re.subn(r"\s+".join(map(re.escape, old.split(" "))), lambda match: new, text)
    assert count == 1, old
    return text


def wrong_headers(right):
    """What is wrong -> the text of the header."""
    truncate = "nbl_session_truncate(nbl_session *s, int64_t count,"
    return {
        "a function removed": changed(right, "NBL_API nbl_status NBL_CALL %s nbl_error **err);" % truncate, ""),
        "an argument swapped": changed(right, truncate, "nbl_session_truncate(int64_t count, nbl_session *s,"),
        "an argument of another width": changed(right, truncate, "nbl_session_truncate(nbl_session *s, int32_t count,"),
        "a constant changed": changed(right, "NBL_E_BUSY = -5,", "NBL_E_BUSY = -55,"),
        "an option changed": changed(right, "NBL_OPT_CONTEXT = 2000,", "NBL_OPT_CONTEXT = 2009,"),
    }
