"""From conversations to tokens, and which of them are the assistant's."""
