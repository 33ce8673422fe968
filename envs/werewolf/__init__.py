"""Werewolf: seven players, two of them werewolves; scripted players of several characters, or all seats played."""
