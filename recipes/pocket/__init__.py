"""How the model inside the package is made: `make pocket`, or `python -m recipes.pocket`.

problem.py            what a task hands over: a problem with wordings, working and answer; what is held out
tasks/                the skills, one file each: arithmetic, stories, spelling, numbers, calendar, units,
                      facts, talk, what it does not know, system prompts, JSON, tools, turns that refer back
words.py              words to spell, and which of them are common
data.py               the mixture: an endless, seeded stream of chats
tokenizer.py          its vocabulary: letters and whole words
chat_template.jinja   the chat format, our own text
shape.py              the model's shape and the settings of its training
peek.py               a few held-out questions while it is trained
evaluate.py           held-out accuracy by task, with thinking and without, and by thinking budget
card.py  plot.py      the model card, the README's table and the picture of that accuracy
__main__.py           one command: tokenizer, data, training, export, evaluation, card
"""
