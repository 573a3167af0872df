"""Inner models, the functions f_res whose parameters W are a TTT layer's hidden state. Add one as a new file."""
