"""`sam4mllm chat`: a conversation about pictures in a terminal, or through a pipe."""
