"""The local stack: real servers and our processes on this machine, without Docker, Java or root."""
