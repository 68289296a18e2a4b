document.getElementById("message").submit();
