"""What the pocket is taught: one file a skill, each with TASKS; problem.py says what a task is."""

from recipes.pocket.problem import Task
from recipes.pocket.tasks import (
    arithmetic,
    calendar,
    facts,
    numbers,
    objects,
    spelling,
    stories,
    system,
    talk,
    tools,
    turns,
    units,
    unknown,
)

_ROOMS = (
    arithmetic,
    stories,
    spelling,
    numbers,
    calendar,
    units,
    facts,
    talk,
    unknown,
    system,
    objects,
    tools,
    turns,
)
TASKS: tuple[Task, ...] = tuple(task for room in _ROOMS for task in room.TASKS)
