"""Messages to a prompt: the checkpoint's own template in a sandbox, where content forges no control token."""
