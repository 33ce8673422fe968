"""Small repositories with bugs: generated from programs, repaired by tool calls, judged by hidden tests."""
