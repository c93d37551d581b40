"""What a progress was told."""

from tunesmith.progress import Silent


class Bars(Silent):
    """Remembers each bar's label, length and how far it came."""

    def __init__(self):
        self.seen = []

    def begin(self, label, total):
        self.seen.append([label, total, 0])

    def advance(self, amount=1, figures=""):
        self.seen[-1][2] += amount
