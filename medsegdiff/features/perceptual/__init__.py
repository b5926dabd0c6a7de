"""Networks of others, made for photographs, whose weights come from a file or a download that the user asks for."""
