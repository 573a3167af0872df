"""Inner models, the functions f_res whose parameters W are a TTT layer's hidden state. A new one is one new file."""
